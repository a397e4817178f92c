/*
 * A file whose reads wait until they are let go: `slow-disk IMAGE FOLDER` mounts a file system (FUSE) on
 * FOLDER that has the one file `disk`, with the bytes of IMAGE. A read with O_DIRECT pins its pages before it
 * gets here, and the kernel writes the answer into them past their page tables, as a disk does by DMA. Prints
 * `ready`. Then, for each line on standard input: hold OFFSET   reads from there on are not answered; each
 * that comes is told: `held OFFSET` let go        those that were held are answered, and told: `answered
 * OFFSET`; later ones are held serve         the same, and later ones are answered at once Ends with its
 * input, and takes the file system away.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ROOT = 1, DISK = 2, REQUEST_BYTES = 1 << 20, MAX_HELD = 256, VALID_S = 3600 };

struct reading {
  uint64_t unique, offset;
  uint32_t size;
};

static int fuse, image;
static uint64_t image_bytes, hold_from = UINT64_MAX;
static struct reading held[MAX_HELD];
static int held_count;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void answer(uint64_t unique, int error, const void *bytes, size_t length) {
  struct fuse_out_header header = {.len = sizeof header + length, .error = -error, .unique = unique};
  struct iovec parts[] = {{&header, sizeof header}, {(void *)bytes, length}};
  /* ENOENT: the request was interrupted meanwhile. */
  if (writev(fuse, parts, 2) < 0 && errno != ENOENT) fail("writev");
}

static struct fuse_attr attributes(uint64_t node) {
  struct fuse_attr attributes = {.ino = node, .nlink = 1, .blksize = 4096};
  attributes.mode = node == ROOT ? S_IFDIR | 0700 : S_IFREG | 0600;
  attributes.size = node == ROOT ? 0 : image_bytes;
  return attributes;
}

static void answer_read(struct reading it) {
  static char bytes[REQUEST_BYTES];
  ssize_t length = pread(image, bytes, it.size, (off_t)it.offset);
  if (length < 0) fail("pread");
  answer(it.unique, 0, bytes, (size_t)length);
}

static void read_disk(uint64_t unique, const struct fuse_read_in *in) {
  struct reading it = {unique, in->offset, in->size};
  if (in->offset < hold_from) {
    answer_read(it);
    return;
  }
  if (held_count == MAX_HELD) fail("too many reads");
  held[held_count++] = it;
  printf("held %llu\n", (unsigned long long)in->offset);
}

static void init(uint64_t unique, const struct fuse_init_in *in) {
  struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};
  out.flags = in->flags & (FUSE_ASYNC_READ | FUSE_ASYNC_DIO);
  out.max_background = out.congestion_threshold = MAX_HELD;
  out.max_write = 4096;
  out.time_gran = 1;
  answer(unique, 0, &out, sizeof out);
}

static void look_up(uint64_t unique, const char *name) {
  struct fuse_entry_out out = {.nodeid = DISK, .entry_valid = VALID_S, .attr_valid = VALID_S};
  out.attr = attributes(DISK);
  if (strcmp(name, "disk") != 0)
    answer(unique, ENOENT, NULL, 0);
  else
    answer(unique, 0, &out, sizeof out);
}

static void get_attributes(uint64_t unique, uint64_t node) {
  struct fuse_attr_out out = {.attr_valid = VALID_S, .attr = attributes(node)};
  answer(unique, 0, &out, sizeof out);
}

static void serve(void) {
  static char request[REQUEST_BYTES];
  ssize_t length = read(fuse, request, sizeof request);
  if (length < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN)) return;
  if (length < 0) fail("read");
  const struct fuse_in_header *header = (const void *)request;
  const void *body = header + 1;
  switch (header->opcode) {
    case FUSE_INIT:
      init(header->unique, body);
      break;
    case FUSE_LOOKUP:
      look_up(header->unique, body);
      break;
    case FUSE_GETATTR:
      get_attributes(header->unique, header->nodeid);
      break;
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
      struct fuse_open_out out = {0};
      answer(header->unique, 0, &out, sizeof out);
      break;
    }
    case FUSE_READ:
      read_disk(header->unique, body);
      break;
    case FUSE_STATFS: {
      struct fuse_statfs_out out = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};
      answer(header->unique, 0, &out, sizeof out);
      break;
    }
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
      answer(header->unique, 0, NULL, 0);
      break;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT:
      break;
    default:
      answer(header->unique, ENOSYS, NULL, 0);
  }
}

static void let_go(void) {
  for (int at = 0; at < held_count; at++) {
    /* Told before: what the answer brings about comes after it. */
    printf("answered %llu\n", (unsigned long long)held[at].offset);
    answer_read(held[at]);
  }
  held_count = 0;
}

/** @return 0 at the end of the input */
static int obey(void) {
  static char line[64];
  static size_t length;
  char next;
  if (read(STDIN_FILENO, &next, 1) <= 0) return 0;
  if (next != '\n') {
    if (length < sizeof line - 1) line[length++] = next;
    return 1;
  }
  line[length] = 0;
  length = 0;
  unsigned long long offset;
  if (sscanf(line, "hold %llu", &offset) == 1) {
    hold_from = offset;
  } else if (strcmp(line, "let go") == 0) {
    let_go();
  } else if (strcmp(line, "serve") == 0) {
    hold_from = UINT64_MAX;
    let_go();
  }
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const char *folder = argv[2];
  setvbuf(stdout, NULL, _IOLBF, 0);
  image = open(argv[1], O_RDONLY | O_CLOEXEC);
  struct stat found;
  if (image < 0 || fstat(image, &found) != 0) fail(argv[1]);
  image_bytes = (uint64_t)found.st_size;
  fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fuse < 0) fail("/dev/fuse");
  char options[64];
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fuse, getuid(), getgid());
  if (mount("slow-disk", folder, "fuse", MS_NOSUID | MS_NODEV, options) != 0) fail("mount");
  puts("ready");
  for (;;) {
    struct pollfd ends[] = {{.fd = fuse, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    if (poll(ends, 2, -1) < 0) fail("poll");
    if (ends[1].revents != 0 && !obey()) break;
    if (ends[0].revents != 0) serve();
  }
  umount2(folder, MNT_DETACH);
  return 0;
}
