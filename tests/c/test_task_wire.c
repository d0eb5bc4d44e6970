// SRC: csrc/task/wire.c
/* Calls of a shim as bytes, against what a protobuf library makes of the same; answers cut and damaged anywhere. */
#include "task/task.h"
#include <stdio.h>
#include <string.h>

static int count, failed;

static void ok(bool good, const char *what) {
        printf("%s %d - %s\n", good ? "ok" : "not ok", ++count, what);
        failed += !good;
}

static const char *const wait_name[2] = {"containerd.task.v2.Task", "Wait"};

static void calls(void) {
        /* Request{service, method, payload: WaitRequest{id: "abc"}} as protoc encodes it */
        static const char want[] = "\0\0\0\x26\0\0\0\x3\x1\0"
                                   "\x0a\x17"
                                   "containerd.task.v2.Task"
                                   "\x12\x04Wait"
                                   "\x1a\x05\x0a\x03"
                                   "abc";
        char out[256], message[64];
        size_t n = pc_rpc_container(message, sizeof message, "abc");
        ok(n == 5 && memcmp(message,
                            "\x0a\x03"
                            "abc",
                            5) == 0,
           "a container's message");
        size_t m = pc_rpc_call(out, sizeof out, 3, wait_name, (struct pc_bytes){message, n});
        ok(m == sizeof want - 1 && memcmp(out, want, m) == 0, "a call");
        ok(pc_rpc_call(out, m - 1, 3, wait_name, (struct pc_bytes){message, n}) == 0, "a call that does not fit");
        ok(pc_rpc_call(out, 5, 3, wait_name, (struct pc_bytes){message, n}) == 0, "nor does its header");
        ok(pc_rpc_container(message, 4, "abc") == 0, "a message that does not fit");
        n = pc_rpc_resize(message, sizeof message, "abc", 80, 300);
        ok(n == 10 && memcmp(message + 5, "\x18\x50\x20\xac\x02", 5) == 0, "a terminal's size");
        n = pc_rpc_close_stdin(message, sizeof message, "abc");
        ok(n == 7 && memcmp(message + 5, "\x18\x01", 2) == 0, "the end of input");
}

/* Response{status: {code: 5, message: "no"}, payload: {1: 300}} on stream 7 */
static const char answer[] = "\0\0\0\x0d\0\0\0\x7\x2\0"
                             "\x0a\x06\x08\x05\x12\x02no"
                             "\x12\x03\x08\xac\x02";
#define ANSWER_N (sizeof answer - 1)

static void answers(void) {
        struct pc_answer a;
        uint64_t v = 0;
        ok(pc_rpc_answer(answer, ANSWER_N, &a) == (int64_t) ANSWER_N && a.is_answer && a.stream == 7 && a.code == 5 &&
               a.message.n == 2 && memcmp(a.message.p, "no", 2) == 0,
           "an answer with a status");
        ok(pc_rpc_number(a.payload, 1, &v) && v == 300, "a number of its payload");
        ok(!pc_rpc_number(a.payload, 2, &v) && v == 300, "a number that it does not have");
        bool waits = true;
        for (size_t n = 0; n < ANSWER_N; n++)
                waits &= pc_rpc_answer(answer, n, &a) == 0;
        ok(waits, "an answer that is incomplete is waited for");

        char bad[ANSWER_N];
        memcpy(bad, answer, ANSWER_N);
        bad[1] = 0x7f;
        ok(pc_rpc_answer(bad, ANSWER_N, &a) == -EMSGSIZE, "an answer beyond the limit");
        memcpy(bad, answer, ANSWER_N);
        bad[11] = 0x7f;
        ok(pc_rpc_answer(bad, ANSWER_N, &a) == -EBADMSG, "a field beyond the answer");
        memcpy(bad, answer, ANSWER_N);
        bad[8] = 3;
        ok(pc_rpc_answer(bad, ANSWER_N, &a) == (int64_t) ANSWER_N && !a.is_answer, "what is no answer is passed over");
        memcpy(bad, answer, ANSWER_N);
        bad[10] = 0x0b;
        ok(pc_rpc_answer(bad, ANSWER_N, &a) == -EBADMSG, "a kind of field that there is not");
        ok(pc_rpc_answer("\0\0\0\0\0\0\0\x1\x2\0", 10, &a) == 10 && a.code == 0 && a.payload.n == 0, "an empty answer");
}

int main(void) {
        calls();
        answers();
        printf("1..%d\n", count);
        return failed > 0;
}
