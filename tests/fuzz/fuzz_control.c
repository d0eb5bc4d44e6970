// SRC: csrc/monitor/parse.c
/* What others write to the monitor: control fifos in pieces of any size, notify messages, texts of the cgroup files,
 * pid files, runtime errors on their way into JSON. */
#include "monitor/parse.h"
#include <stdlib.h>
#include <string.h>

static void on_line(void *user, const char *text, size_t n) {
        unsigned short rows = 0, cols = 0;
        enum pc_control c = pc_control_parse(text, n, *(bool *) user, &rows, &cols);
        if (rows > PC_WINSZ_MAX || cols > PC_WINSZ_MAX || (c != PC_CONTROL_RESIZE && (rows || cols)))
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (size < 1)
                return 0;
        bool winsz = data[0] & 1;
        size_t step = data[0] / 2u + 1, n = size - 1;
        struct pc_control_line l = {.len = 0};
        char *text = malloc(n + 1), *out = malloc(6 * n + 1);
        if (!text || !out)
                abort();
        memcpy(text, data + 1, n);
        for (size_t at = 0; at < n; at += step)
                pc_control_feed(&l, text + at, n - at < step ? n - at : step, on_line, &winsz);

        int pid = pc_pid_parse(text, n);
        if (pid < 0 || (pid > 0 && (text[0] < '0' || text[0] > '9')))
                abort();

        size_t k = pc_json_escape(text, n, out, 6 * n + 1);
        for (size_t i = 0; i < k; i++)
                if ((unsigned char) out[i] < 0x20 || (out[i] == '"' && (i == 0 || out[i - 1] != '\\')))
                        abort();
        (void) pc_json_escape(text, n, out, n / 2);

        text[n] = '\0';
        char path[128];
        k = pc_cgroup_path(text, winsz, path, sizeof path);
        if (k >= sizeof path || (k > 0 && path[k] != '\0'))
                abort();
        (void) pc_cgroup_count(text, "oom", 0);

        k = pc_notify_filter(text, n);
        if (k > n || memmem(text, k, "MAINPID=", 8) == text)
                abort();
        free(text);
        free(out);
        return 0;
}
