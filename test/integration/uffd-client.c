// A VMM's part in page-fault handling, as Firecracker plays it: maps guest memory, registers it with a
// userfaultfd, sends both over a unix socket, and then uses the memory as a guest, a device and a balloon
// would, in several threads. All that it reads is compared with the image. Usage: uffd-client SOCKET MESSAGE
// sends MESSAGE with a userfaultfd, as often as FDS in the environment says,
//                                     and waits until the other side hangs up
//        uffd-client SOCKET IMAGE WORK PAGE_BYTES ADDRESS:OFFSET:BYTES…
//   WORK is a list of letters: u user-mode faults, k kernel-mode faults, b balloon beside user-mode faults,
//   a everything is compared, w waits for a byte on standard input, d dies.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_REGIONS 8
#define PAGE 4096u
#define THREADS 4
#define TOUCHES 20000
#define REMOVALS 60

struct region {
  uint8_t *memory;
  uint64_t address, offset, bytes;
};

static struct region regions[MAX_REGIONS];
static int region_count;
static uint64_t page_bytes;
static const uint8_t *image;
/** By page of the image. Set when madvise has returned. */
static _Atomic uint8_t *removed;

static void fail(const char *what) {
  fprintf(stderr, "uffd-client: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int check(int result, const char *what) {
  if (result == -1) fail(what);
  return result;
}

static void wrong(const struct region *region, uint64_t at, const char *what) {
  fprintf(stderr, "uffd-client: byte %" PRIu64 " of the image is wrong: %s\n", region->offset + at, what);
  exit(1);
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
  int fd = check(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
  for (int tries = 0; connect(fd, (struct sockaddr *)&address, sizeof(address)) == -1; tries++) {
    if (tries > 12000 || (errno != ECONNREFUSED && errno != ENOENT)) fail("connect");
    usleep(10000);
  }
  return fd;
}

static int open_userfaultfd(void) {
  int fd = check((int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), "userfaultfd");
  const char *features = getenv("FEATURES");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  if (features != NULL) api.features = strtoull(features, NULL, 0);
  check(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
  return fd;
}

static void send_with_fds(int socket, const char *text, int fd, int count) {
  union {
    char bytes[CMSG_SPACE(8 * sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec vector = {.iov_base = (void *)text, .iov_len = strlen(text)};
  struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
  if (count > 0) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (int i = 0; i < count; i++) memcpy(CMSG_DATA(rights) + i * sizeof(int), &fd, sizeof(int));
  }
  if (sendmsg(socket, &header, MSG_NOSIGNAL) != (ssize_t)strlen(text)) fail("sendmsg");
}

static void map_region(struct region *region, int uffd) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  if (page_bytes != PAGE) flags |= MAP_HUGETLB;
  void *wanted = (void *)region->address;
  region->memory = mmap(wanted, region->bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (region->memory == MAP_FAILED) fail("mmap");
  // Two mappings from here on, which no single copy can fill.
  if (page_bytes == PAGE)
    check(madvise(region->memory, region->bytes / 2 + 5 * PAGE, MADV_NOHUGEPAGE), "madvise");
  struct uffdio_register range = {.range = {.start = region->address, .len = region->bytes},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
  check(ioctl(uffd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
}

static void hand_over(const char *path) {
  char text[4096] = "[";
  int uffd = open_userfaultfd();
  for (int i = 0; i < region_count; i++) {
    map_region(&regions[i], uffd);
    snprintf(text + strlen(text), sizeof(text) - strlen(text),
             "%s{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64
             ",\"page_size\":%" PRIu64 ",\"page_size_kib\":%" PRIu64 "}",
             i == 0 ? "" : ",", regions[i].address, regions[i].bytes, regions[i].offset, page_bytes,
             page_bytes);
  }
  strcat(text, "]");
  int socket = connect_to(path);
  send_with_fds(socket, text, uffd, 1);
  close(socket);
}

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  return *state ^= *state << 17;
}

static void compare_page(const struct region *region, uint64_t at) {
  _Atomic uint8_t *mark = &removed[(region->offset + at) / PAGE];
  const uint8_t was_removed = atomic_load(mark);
  const volatile uint64_t *words = (const volatile uint64_t *)(region->memory + at);
  const uint64_t *expected = (const uint64_t *)(image + region->offset + at);
  for (unsigned i = 0; i < PAGE / 8; i++) {
    const uint64_t word = words[i];
    if (was_removed && word != 0) wrong(region, at + 8 * i, "removed, but not zero");
    if (was_removed || word == expected[i]) continue;
    if (word != 0) wrong(region, at + 8 * i, "neither the image nor zero");
    // Being removed while we look; then its mark follows.
    for (int tries = 0; !atomic_load(mark); tries++) {
      if (tries > 120000) wrong(region, at + 8 * i, "zero, but never removed");
      usleep(1000);
    }
  }
}

static void *touch(void *seed) {
  uint64_t state = (uint64_t)seed;
  for (int i = 0; i < TOUCHES; i++) {
    const struct region *region = &regions[next_random(&state) % region_count];
    compare_page(region, next_random(&state) % (region->bytes / PAGE) * PAGE);
  }
  return NULL;
}

static void *inflate(void *seed) {
  uint64_t state = (uint64_t)seed;
  for (int i = 0; i < REMOVALS; i++) {
    const struct region *region = &regions[next_random(&state) % region_count];
    uint64_t pages = region->bytes / page_bytes, first = next_random(&state) % pages;
    uint64_t count = 1 + next_random(&state) % (page_bytes == PAGE ? 64 : 1);
    if (first + count > pages) count = pages - first;
    check(madvise(region->memory + first * page_bytes, count * page_bytes, MADV_DONTNEED), "madvise");
    uint64_t mark = (region->offset + first * page_bytes) / PAGE;
    for (uint64_t page = 0; page < count * page_bytes / PAGE; page++) atomic_store(&removed[mark + page], 1);
  }
  return NULL;
}

static void in_threads(int balloons) {
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++)
    check(-(pthread_create(&threads[i], NULL, (int)i < balloons ? inflate : touch, (void *)(i + 12345)) != 0),
          "pthread_create");
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static const uint8_t *expected_page(const struct region *region, uint64_t at) {
  static const uint8_t zeros[PAGE];
  uint64_t offset = region->offset + at;
  return atomic_load(&removed[offset / PAGE]) ? zeros : image + offset;
}

/** A device writes into missing pages and reads from them: the faults happen inside read(2) and write(2). */
static void kernel_faults(void) {
  int ends[2];
  check(pipe(ends), "pipe");
  const char text[] = "from a device";
  char back[sizeof(text)];
  for (int i = 0; i < region_count; i++) {
    const struct region *region = &regions[i];
    for (uint64_t at = 3 * PAGE; at < region->bytes; at += region->bytes / 61 / PAGE * PAGE) {
      if (write(ends[1], region->memory + at + 700, sizeof(text)) != sizeof(text)) fail("write");
      if (read(ends[0], back, sizeof(back)) != sizeof(text)) fail("read");
      if (memcmp(back, expected_page(region, at) + 700, sizeof(text)) != 0) wrong(region, at, "write(2)");
      if (write(ends[1], text, sizeof(text)) != sizeof(text)) fail("write");
      if (read(ends[0], region->memory + at + PAGE + 100, sizeof(text)) != sizeof(text)) fail("read");
      uint8_t *page = region->memory + at + PAGE;
      if (memcmp(page + 100, text, sizeof(text)) != 0) wrong(region, at + PAGE, "read(2)");
      memcpy(page + 100, expected_page(region, at + PAGE) + 100, sizeof(text));
      compare_page(region, at + PAGE);
    }
  }
}

static void work(char what) {
  char byte;
  switch (what) {
    case 'u':
      return in_threads(0);
    case 'b':
      return in_threads(2);
    case 'k':
      return kernel_faults();
    case 'a':
      for (int i = 0; i < region_count; i++)
        for (uint64_t at = 0; at < regions[i].bytes; at += PAGE) compare_page(&regions[i], at);
      return;
    case 'w':
      printf("waiting\n");
      fflush(stdout);
      if (read(0, &byte, 1) == -1) fail("read");
      return;
    case 'd':
      raise(SIGKILL);
  }
}

static int send_message(const char *path, const char *text) {
  const char *fds = getenv("FDS");
  int socket = connect_to(path), uffd = open_userfaultfd();
  send_with_fds(socket, text, uffd, fds == NULL ? 1 : atoi(fds));
  char byte;
  return read(socket, &byte, 1) == 0 || errno == ECONNRESET ? 0 : 1;
}

int main(int argc, char **argv) {
  if (argc == 3) return send_message(argv[1], argv[2]);
  if (argc < 6 || argc > 5 + MAX_REGIONS) return 2;
  int file = check(open(argv[2], O_RDONLY), "open");
  struct stat status;
  check(fstat(file, &status), "fstat");
  image = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (image == MAP_FAILED) fail("mmap");
  removed = calloc(status.st_size / PAGE, 1);
  page_bytes = strtoull(argv[4], NULL, 0);
  for (int i = 5; i < argc; i++, region_count++) {
    struct region *next = &regions[region_count];
    if (sscanf(argv[i], "%" SCNx64 ":%" SCNu64 ":%" SCNu64, &next->address, &next->offset, &next->bytes) != 3)
      return 2;
  }
  hand_over(argv[1]);
  for (const char *what = argv[3]; *what != '\0'; what++) work(*what);
  printf("ok\n");
  return 0;
}
