/*
 * A process whose threads notice when anything of theirs is changed behind their back: each sleeps in a
 * system call with known values in all registers, the vector registers included, and compares them when it
 * returns; so it does with its signal mask and its alternate stack. `traced-process WHICH...`: one thread for
 * each `ppoll`, `read`, `futex`. Prints `ready`, and then, for each line on standard input, the number of
 * calls that each thread has made and `intact`, or ends with what it has found.
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_THREADS = 16, REGISTERS = 12, VECTORS = 16 };

struct call {
  int64_t number;
  int64_t arguments[6];
};

struct image {
  uint64_t registers[REGISTERS]; /* rdi rsi rdx r10 r8 r9 rbx r12 r13 r14 r15 rbp */
  uint8_t vectors[VECTORS][16];
  int64_t result;
};

struct sleeper {
  const char *which;
  int pipe[2];
  uint32_t word;
  char byte;
  struct {
    int fd;
    short events, revents;
  } poll;
  volatile unsigned long calls;
};

static struct sleeper sleepers[MAX_THREADS];
static int sleeper_count;

static void broken(const char *what) {
  printf("broken: %s\n", what);
  fflush(stdout);
  _exit(1);
}

/* image.registers: in and out. */
void make_call(struct image *image, int64_t number);
__asm__(
    ".text\n.globl make_call\nmake_call:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n push %rdi\n"
    "mov %rsi, %rax\n mov %rdi, %rcx\n"
    "movdqu 96(%rcx), %xmm0\n movdqu 112(%rcx), %xmm1\n movdqu 128(%rcx), %xmm2\n movdqu 144(%rcx), %xmm3\n"
    "movdqu 160(%rcx), %xmm4\n movdqu 176(%rcx), %xmm5\n movdqu 192(%rcx), %xmm6\n movdqu 208(%rcx), %xmm7\n"
    "movdqu 224(%rcx), %xmm8\n movdqu 240(%rcx), %xmm9\n movdqu 256(%rcx), %xmm10\n movdqu 272(%rcx), "
    "%xmm11\n"
    "movdqu 288(%rcx), %xmm12\n movdqu 304(%rcx), %xmm13\n movdqu 320(%rcx), %xmm14\n movdqu 336(%rcx), "
    "%xmm15\n"
    "mov 0(%rcx), %rdi\n mov 8(%rcx), %rsi\n mov 16(%rcx), %rdx\n mov 24(%rcx), %r10\n mov 32(%rcx), %r8\n"
    "mov 40(%rcx), %r9\n mov 48(%rcx), %rbx\n mov 56(%rcx), %r12\n mov 64(%rcx), %r13\n mov 72(%rcx), %r14\n"
    "mov 80(%rcx), %r15\n mov 88(%rcx), %rbp\n"
    /* the red zone is in use, too */
    "movq $0x5a5a5a5a, -8(%rsp)\n movq $0x7b7b7b7b, -128(%rsp)\n"
    "syscall\n"
    "cmpq $0x5a5a5a5a, -8(%rsp)\n jne 1f\n cmpq $0x7b7b7b7b, -128(%rsp)\n jne 1f\n"
    "mov 0(%rsp), %rcx\n"
    "mov %rdi, 0(%rcx)\n mov %rsi, 8(%rcx)\n mov %rdx, 16(%rcx)\n mov %r10, 24(%rcx)\n mov %r8, 32(%rcx)\n"
    "mov %r9, 40(%rcx)\n mov %rbx, 48(%rcx)\n mov %r12, 56(%rcx)\n mov %r13, 64(%rcx)\n mov %r14, 72(%rcx)\n"
    "mov %r15, 80(%rcx)\n mov %rbp, 88(%rcx)\n"
    "movdqu %xmm0, 96(%rcx)\n movdqu %xmm1, 112(%rcx)\n movdqu %xmm2, 128(%rcx)\n movdqu %xmm3, 144(%rcx)\n"
    "movdqu %xmm4, 160(%rcx)\n movdqu %xmm5, 176(%rcx)\n movdqu %xmm6, 192(%rcx)\n movdqu %xmm7, 208(%rcx)\n"
    "movdqu %xmm8, 224(%rcx)\n movdqu %xmm9, 240(%rcx)\n movdqu %xmm10, 256(%rcx)\n movdqu %xmm11, "
    "272(%rcx)\n"
    "movdqu %xmm12, 288(%rcx)\n movdqu %xmm13, 304(%rcx)\n movdqu %xmm14, 320(%rcx)\n movdqu %xmm15, "
    "336(%rcx)\n"
    "mov %rax, 352(%rcx)\n"
    "pop %rdi\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
    "1: ud2\n");

static int64_t checked_call(const struct call *call) {
  struct image before, after;
  for (int i = 0; i < REGISTERS; i++)
    before.registers[i] = i < 6 ? (uint64_t)call->arguments[i] : 0x1111ull * i;
  for (int i = 0; i < VECTORS; i++) memset(before.vectors[i], 0x40 + i, sizeof(before.vectors[i]));
  after = before;
  make_call(&after, call->number);
  if (memcmp(before.registers, after.registers, sizeof(before.registers)) != 0) broken("registers");
  if (memcmp(before.vectors, after.vectors, sizeof(before.vectors)) != 0) broken("vector registers");
  return after.result;
}

static struct call call_of(struct sleeper *me) {
  if (strcmp(me->which, "ppoll") == 0) {
    me->poll.fd = me->pipe[0];
    me->poll.events = 1;
    return (struct call){SYS_ppoll, {(int64_t)&me->poll, 1, 0, 0, 8, 0x99}};
  }
  if (strcmp(me->which, "read") == 0)
    return (struct call){SYS_read, {me->pipe[0], (int64_t)&me->byte, 1, 7, 8, 9}};
  return (struct call){SYS_futex, {(int64_t)&me->word, FUTEX_WAIT_PRIVATE, 0, 0, 8, 9}};
}

static void *sleep_and_compare(void *argument) {
  struct sleeper *me = argument;
  stack_t alternate = {.ss_sp = malloc(65536), .ss_size = 65536}, found_stack;
  sigset_t mask, found_mask;
  sigemptyset(&mask);
  sigaddset(&mask, (me - sleepers) % 2 == 0 ? SIGUSR1 : SIGUSR2);
  sigaltstack(&alternate, NULL);
  pthread_sigmask(SIG_SETMASK, &mask, NULL);
  const struct call call = call_of(me);
  for (;;) {
    const int64_t result = checked_call(&call);
    /* A futex may wake up for nothing, everything else is to be made again by the system. */
    const int64_t expected = call.number == SYS_futex ? 0 : 1;
    if (result != expected && !(call.number == SYS_futex && result == -11)) broken("the result of a call");
    if (call.number == SYS_ppoll && read(me->pipe[0], &me->byte, 1) != 1) broken("read");
    me->word = 0;
    pthread_sigmask(SIG_SETMASK, NULL, &found_mask);
    if (memcmp(&mask, &found_mask, 8) != 0) broken("the signal mask");
    sigaltstack(NULL, &found_stack);
    if (found_stack.ss_sp != alternate.ss_sp || found_stack.ss_size != alternate.ss_size ||
        found_stack.ss_flags != 0)
      broken("the alternate stack");
    me->calls++;
  }
  return NULL;
}

static void wake(struct sleeper *it) {
  const unsigned long before = it->calls;
  if (strcmp(it->which, "futex") != 0) {
    if (write(it->pipe[1], "x", 1) != 1) broken("write");
  } else {
    __atomic_store_n(&it->word, 1, __ATOMIC_SEQ_CST);
  }
  while (it->calls == before) {
    if (strcmp(it->which, "futex") == 0) syscall(SYS_futex, &it->word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
    usleep(100);
  }
}

/* Sleeps in a call that only the kernel can restart, so that no other process picks this thread. */
static int next_line(char *line, int size) {
  struct pollfd input = {.fd = 0, .events = POLLIN};
  while (poll(&input, 1, 1000000) != 1) {
  }
  return fgets(line, size, stdin) != NULL;
}

/* The system kills the process when it makes the call. */
static void deny(int call) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    broken("the filter");
}

int main(int argc, char **argv) {
  char line[64];
  if (getenv("DENIED_CALL") != NULL) deny(atoi(getenv("DENIED_CALL")));
  for (sleeper_count = 0; sleeper_count + 1 < argc && sleeper_count < MAX_THREADS; sleeper_count++) {
    struct sleeper *it = &sleepers[sleeper_count];
    pthread_t thread;
    it->which = argv[sleeper_count + 1];
    if (pipe(it->pipe) != 0 || pthread_create(&thread, NULL, sleep_and_compare, it) != 0) broken("the start");
  }
  puts("ready");
  fflush(stdout);
  while (next_line(line, sizeof(line))) {
    for (int i = 0; i < sleeper_count; i++) wake(&sleepers[i]);
    for (int i = 0; i < sleeper_count; i++) printf("%lu ", sleepers[i].calls);
    puts("intact");
    fflush(stdout);
  }
  return 0;
}
