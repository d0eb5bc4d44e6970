/* The one error object of the C core: filled by the unit that failed, read by main() or by the binding.
 *
 * Convention (see docs/CONTRIBUTING.md): a function returns 0 or a positive value on success and -errno on
 * failure; in the latter case, and only then, it has filled *reterr. ret_ parameters are untouched on failure. */
#pragma once
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PC_ERR_PATH 256

struct pc_err {
        int code;               /* positive errno */
        const char *step;       /* static string naming the step that failed, e.g. "openat2" */
        char path[PC_ERR_PATH]; /* what it was about, for messages only; may be empty */
};

/* Fill *reterr (may be NULL) and give back -code, so that "return pc_fail(...)" reads as one statement. */
static inline int pc_fail(struct pc_err *reterr, int code, const char *step, const char *path) {
        if (code < 0)
                code = -code;
        if (code == 0)
                code = EIO; /* a caller that lost its errno must still fail */
        if (reterr) {
                reterr->code = code;
                reterr->step = step;
                /* Truncation is fine: the path is for people. No stdio: the monitor and pause stay small. */
                size_t n = path ? strlen(path) : 0;
                if (n > sizeof reterr->path - 1)
                        n = sizeof reterr->path - 1;
                if (n > 0)
                        memcpy(reterr->path, path, n);
                reterr->path[n] = '\0';
        }
        return -code;
}

static inline int pc_fail_errno(struct pc_err *reterr, const char *step, const char *path) {
        return pc_fail(reterr, errno, step, path);
}
