/* A program without libc: its entry and three-argument-and-more system calls, per architecture. */
#pragma once
#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

/* The kernel hands over a stack that begins with argc and argv; the aligned rest of it is ours. */
int raw_main(const uintptr_t *stack);

/* Result or -errno, as the kernel gives it. */
static inline long raw5(long nr, long a, long b, long c, long d, long e);

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall raw_main\n\thlt\n");
static inline long raw5(long nr, long a, long b, long c, long d, long e) {
        register long r10 __asm__("r10") = d;
        register long r8 __asm__("r8") = e;
        long r;
        __asm__ volatile("syscall"
                         : "=a"(r)
                         : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                         : "rcx", "r11", "memory");
        return r;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tand sp, x0, #-16\n\tbl "
        "raw_main\n\tbrk #1\n");
static inline long raw5(long nr, long a, long b, long c, long d, long e) {
        register long x8 __asm__("x8") = nr;
        register long x0 __asm__("x0") = a;
        register long x1 __asm__("x1") = b;
        register long x2 __asm__("x2") = c;
        register long x3 __asm__("x3") = d;
        register long x4 __asm__("x4") = e;
        __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
        return x0;
}
#elif defined(__riscv) && __riscv_xlen == 64
__asm__(".globl _start\n_start:\n\tli ra, 0\n\tmv a0, sp\n\tandi sp, sp, -16\n\tcall raw_main\n\tebreak\n");
static inline long raw5(long nr, long a, long b, long c, long d, long e) {
        register long a7 __asm__("a7") = nr;
        register long a0 __asm__("a0") = a;
        register long a1 __asm__("a1") = b;
        register long a2 __asm__("a2") = c;
        register long a3 __asm__("a3") = d;
        register long a4 __asm__("a4") = e;
        __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4) : "memory");
        return a0;
}
#elif defined(__s390x__)
__asm__(".globl _start\n_start:\n\tlgr %r2, %r15\n\tnill %r15, 65528\n\taghi %r15, -160\n\tbrasl %r14, raw_main\n\tj "
        ".\n");
static inline long raw5(long nr, long a, long b, long c, long d, long e) {
        register long r1 __asm__("r1") = nr;
        register long r2 __asm__("r2") = a;
        register long r3 __asm__("r3") = b;
        register long r4 __asm__("r4") = c;
        register long r5 __asm__("r5") = d;
        register long r6 __asm__("r6") = e;
        __asm__ volatile("svc 0" : "+d"(r2) : "d"(r1), "d"(r3), "d"(r4), "d"(r5), "d"(r6) : "memory");
        return r2;
}
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
/* r12 holds the address of the entry; the TOC pointer follows from it. */
__asm__(".globl _start\n_start:\n\taddis 2, 12, (.TOC.-_start)@ha\n\taddi 2, 2, (.TOC.-_start)@l\n\tmr 3, 1\n"
        "\tclrrdi 1, 1, 4\n\tli 0, 0\n\tstdu 0, -32(1)\n\tbl raw_main\n\tnop\n\ttrap\n");
static inline long raw5(long nr, long a, long b, long c, long d, long e) {
        register long r0 __asm__("r0") = nr;
        register long r3 __asm__("r3") = a;
        register long r4 __asm__("r4") = b;
        register long r5 __asm__("r5") = c;
        register long r6 __asm__("r6") = d;
        register long r7 __asm__("r7") = e;
        __asm__ volatile("sc\n\tbns+ 1f\n\tneg 3, 3\n1:"
                         : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7)
                         :
                         : "memory", "cr0", "ctr", "r8", "r9", "r10", "r11", "r12");
        return r3;
}
#else
#error "the entry of a program and the system call instruction of this architecture are missing in csrc/common/raw.h"
#endif

static inline long raw3(long nr, long a, long b, long c) {
        return raw5(nr, a, b, c, 0, 0);
}

/* A copy of us that tells its end by SIGCHLD. */
static inline long raw_fork(void) {
        enum { CHILD_ENDS = 17 };
#if defined(__s390x__)
        return raw3(__NR_clone, 0, CHILD_ENDS, 0);
#else
        return raw3(__NR_clone, CHILD_ENDS, 0, 0);
#endif
}

static inline long raw_say(int fd, const char *text) {
        size_t n = 0;
        while (text[n])
                n++;
        return raw3(__NR_write, fd, (long) text, (long) n);
}

static inline int raw_same(const char *word, const char *other) {
        while (*word && *word == *other) {
                word++;
                other++;
        }
        return *word == *other;
}

static inline _Noreturn void raw_exit(int code) {
        for (;;)
                (void) raw3(__NR_exit_group, code, 0, 0);
}
