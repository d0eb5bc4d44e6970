/* Container output to the systemd journal by its native datagram protocol (systemd's JOURNAL_NATIVE_PROTOCOL): no
 * library is needed. Lines are sent many at a time; an unterminated one is kept until its newline comes, a piece is
 * full or the stream is flushed. */
#pragma once
#include "common/err.h"
#include "logmux/frame.h"

#define PC_JOURNAL_SOCKET "/run/systemd/journal/socket"

struct pc_journal_fields {
        const char *id;            /* full container id, longer than 12 characters */
        const char *name;          /* may be NULL */
        const char *tag;           /* may be NULL */
        const char *const *labels; /* KEY=value */
        int nlabels;
        bool no_partial_field;
};

struct pc_journal;

/* The socket need not exist yet: like sd_journal_send, what cannot be delivered is dropped. */
int pc_journal_open(const char *socket_path, const struct pc_journal_fields *fields, struct pc_journal **ret,
                    struct pc_err *reterr);
void pc_journal_close(struct pc_journal *j);

/* Send all whole lines of in[0..n). Errors are reported once per change of state. */
int pc_journal_put(struct pc_journal *j, enum pc_stream stream, const char *in, size_t n, struct pc_err *reterr);
int pc_journal_flush(struct pc_journal *j, enum pc_stream stream, struct pc_err *reterr);
