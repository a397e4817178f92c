/*
 * Stands in for a QEMU 7.2 whose background snapshot broke: memory under userfaultfd write protection that nobody
 * will ever lift, and a thread that hangs in a write to it. A second region waits for missing pages, as in a
 * post-copy restore: a rescue must leave it alone.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { REGION_BYTES = 1 << 20 };

static void check(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static char *registered_region(int uffd, unsigned long mode) {
  char *region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(region != MAP_FAILED, "mmap");
  if (mode == UFFDIO_REGISTER_MODE_WP) memset(region, 1, REGION_BYTES);
  struct uffdio_register request = {.range = {(unsigned long)region, REGION_BYTES}, .mode = mode};
  check(ioctl(uffd, UFFDIO_REGISTER, &request) == 0, "UFFDIO_REGISTER");
  return region;
}

static int new_userfaultfd(void) {
  int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  check(uffd >= 0, "userfaultfd");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP};
  check(ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");
  return uffd;
}

static void *read_missing(void *region) {
  printf("read %d\n", *(volatile char *)region);
  return NULL;
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  int uffd = new_userfaultfd();
  char *protected_region = registered_region(uffd, UFFDIO_REGISTER_MODE_WP);
  char *missing_region = registered_region(new_userfaultfd(), UFFDIO_REGISTER_MODE_MISSING);
  struct uffdio_writeprotect protect = {.range = {(unsigned long)protected_region, REGION_BYTES},
                                        .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  check(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect) == 0, "UFFDIO_WRITEPROTECT");

  pthread_t reader;
  check(pthread_create(&reader, NULL, read_missing, missing_region) == 0, "pthread_create");
  printf("writing\n");
  for (int offset = 0; offset < REGION_BYTES; offset += 4096) protected_region[offset] = 2;
  printf("written\n");
  pause();
}
