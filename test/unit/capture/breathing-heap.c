/* A process whose heap grows and shrinks at its end without pause. What lies at its start stays. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { GROWTH = 1 << 20 };

int main(void) {
  char *start = sbrk(4096);
  if (start == (void *)-1) return 1;
  strcpy(start, "what stays");
  if (write(STDOUT_FILENO, "ready\n", 6) != 6) return 1;
  for (;;)
    if (sbrk(GROWTH) == (void *)-1 || sbrk(-GROWTH) == (void *)-1) return 1;
}
