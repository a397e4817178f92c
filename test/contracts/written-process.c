/*
 * A process with memory that is written in all the ways in which QEMU's is. `written-process KIND PAGES
 * [FILE]`: KIND is `small` (anonymous, no huge pages), `huge` (anonymous, huge where the system gives them),
 * or `file` (a private mapping of FILE). Prints the address. Then, for each line on standard input, does it
 * and prints `done`: write FIRST COUNT STEP BYTE     by a thread       kernel FIRST BYTE     read(2) puts a
 * page there read FIRST COUNT                                  direct FIRST COUNT FILE   as read with
 * O_DIRECT discard FIRST COUNT             MADV_DONTNEED     fork                  a child that lives on race
 * BYTE                       a thread writes at random from now on until `rest`
 * forbid FIRST COUNT         PROT_NONE         replace FIRST COUNT   other memory lies there
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAGE = 4096, HUGE = 2 << 20 };

static unsigned char *memory;
static long pages;
static volatile int racing;
static pthread_t racer;

struct writing {
  long first, count, step, byte;
};

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void *write_pages(void *argument) {
  const struct writing *it = argument;
  for (long i = 0; i < it->count; i++)
    memory[(it->first + i * it->step) * PAGE + i % PAGE] = (unsigned char)it->byte;
  return NULL;
}

static void *race(void *argument) {
  unsigned long random = (unsigned long)argument | 1;
  while (racing) {
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    /* Writes gather in a part of memory, as a guest's do. */
    long page = random % 4 == 0 ? (long)(random >> 8) % pages : (long)(random >> 8) % (pages / 8);
    if (page < 0) page += pages / 8;
    memory[page * PAGE + (random >> 40) % PAGE]++;
  }
  return NULL;
}

static void by_kernel(long first, int byte) {
  int ends[2];
  unsigned char bytes[PAGE];
  memset(bytes, byte, PAGE);
  if (pipe(ends) != 0 || write(ends[1], bytes, PAGE) != PAGE ||
      read(ends[0], memory + first * PAGE, PAGE) != PAGE)
    fail("pipe");
  close(ends[0]);
  close(ends[1]);
}

static void direct(long first, long count, const char *name) {
  int fd = open(name, O_RDONLY | O_DIRECT);
  if (fd < 0 || read(fd, memory + first * PAGE, count * PAGE) != count * PAGE) fail(name);
  close(fd);
}

static void run(void *(*body)(void *), void *argument) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, body, argument) != 0) fail("pthread_create");
  pthread_join(thread, NULL);
}

static void obey(const char *line) {
  struct writing it;
  long first, count, byte;
  char name[4096];
  if (sscanf(line, "write %ld %ld %ld %ld", &it.first, &it.count, &it.step, &it.byte) == 4)
    run(write_pages, &it);
  if (sscanf(line, "kernel %ld %ld", &first, &byte) == 2) by_kernel(first, (int)byte);
  if (sscanf(line, "direct %ld %ld %4095s", &first, &count, name) == 3) direct(first, count, name);
  if (sscanf(line, "discard %ld %ld", &first, &count) == 2 &&
      madvise(memory + first * PAGE, count * PAGE, MADV_DONTNEED) != 0)
    fail("madvise");
  if (sscanf(line, "forbid %ld %ld", &first, &count) == 2 &&
      mprotect(memory + first * PAGE, count * PAGE, PROT_NONE) != 0)
    fail("mprotect");
  if (sscanf(line, "replace %ld %ld", &first, &count) == 2 &&
      mmap(memory + first * PAGE, count * PAGE, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
    fail("mmap");
  if (sscanf(line, "read %ld %ld", &first, &count) == 2)
    for (long i = 0; i < count; i++) (void)*(volatile unsigned char *)(memory + (first + i) * PAGE);
  const pid_t self = getpid();
  if (strncmp(line, "fork", 4) == 0 && fork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) _exit(0);  // it ended before
    for (;;) pause();
  }
  if (sscanf(line, "race %ld", &byte) == 1) {
    racing = 1;
    pthread_create(&racer, NULL, race, (void *)byte);
  }
  if (strncmp(line, "rest", 4) == 0) {
    racing = 0;
    pthread_join(racer, NULL);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  const char *kind = argv[1];
  pages = atol(argv[2]);
  const size_t bytes = (size_t)pages * PAGE;
  int fd = strcmp(kind, "file") == 0 ? open(argv[3], O_RDONLY) : -1;
  int flags = MAP_PRIVATE | MAP_NORESERVE | (fd < 0 ? MAP_ANONYMOUS : 0);
  unsigned char *room =
      mmap(NULL, bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  memory = (unsigned char *)(((unsigned long)room + HUGE - 1) / HUGE * HUGE);
  if (mmap(memory, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == MAP_FAILED) fail("mmap");
  if (strcmp(kind, "small") == 0) madvise(memory, bytes, MADV_NOHUGEPAGE);
  if (strcmp(kind, "huge") == 0) madvise(memory, bytes, MADV_HUGEPAGE);
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("%lu\n", (unsigned long)memory);
  char line[8192];
  while (fgets(line, sizeof(line), stdin) != NULL) {
    obey(line);
    puts("done");
  }
  return 0;
}
