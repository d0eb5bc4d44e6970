// SRC: csrc/mounts/inroot.c csrc/untar/dirs.c csrc/untar/names.c
/* Paths of pods on a root that an image has filled with links. The input is words separated by zero bytes: pairs of a
 * link's name and its target, then the path. Checked: nothing appears or changes beside the root, a made path is a
 * directory that resolves to the place that was told, a second time makes nothing. */
#include "common/fd.h"
#include "mounts/mounts.h"
#include "untar/dirs.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int base = -1; /* holds "root" and "out" (what must stay as it is) */
static char root[64];

static void check(bool good) {
        if (!good)
                abort();
}

static void clean_up(void) {
        struct pc_err err;
        root[strlen(root) - strlen("/root")] = '\0';
        (void) pc_dirs_remove(AT_FDCWD, root, &err);
}

static void set_up(void) {
        (void) snprintf(root, sizeof root, "/dev/shm/fuzz-inroot-%d", (int) getpid());
        check(mkdir(root, 0700) == 0);
        base = open(root, O_RDONLY | O_DIRECTORY);
        (void) strcat(root, "/root");
        (void) atexit(clean_up);
        check(base >= 0 && mkdirat(base, "out", 0755) == 0);
        check(symlinkat("nowhere", base, "out/dangling") == 0);
}

static size_t entries_of(const char *name) {
        size_t n = 0;
        DIR *d = fdopendir(openat(base, name, O_RDONLY | O_DIRECTORY));
        check(d != NULL);
        while (readdir(d))
                n++;
        (void) closedir(d);
        return n - 2;
}

/* One component, so that the root is what the links say and no more. */
static bool link_name(const char *name) {
        return *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static void one(char *words[], int n) {
        struct pc_err err;
        char place[PATH_MAX], again[PATH_MAX];
        const char *path = words[n - 1];
        check(mkdirat(base, "root", 0755) == 0 && mkdirat(base, "root/dir", 0755) == 0);
        int file = openat(base, "root/file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        check(file >= 0 && close(file) == 0);
        for (int i = 0; i + 2 < n; i += 2) {
                char name[300];
                if (link_name(words[i]) && snprintf(name, sizeof name, "root/%s", words[i]) < (int) sizeof name)
                        (void) symlinkat(words[i + 1], base,
                                         name); /* a name too many, an empty target: it is not there */
        }
        bool there = pc_resolve_in(root, path, again, sizeof again, &err) == 0;
        int r = pc_mkdirs_in(root, path, 0750, 1, 2, place, sizeof place, &err);
        if (r == 0) {
                struct stat st, other;
                size_t len = strlen(root);
                check(strncmp(place, root, len) == 0 && (place[len] == '/' || place[len] == '\0'));
                check(!there || strcmp(place, again) == 0);
                check(strlen(place) >= PATH_MAX || (lstat(place, &st) == 0 && S_ISDIR(st.st_mode)));
                r = pc_resolve_in(root, path, again, sizeof again, &err);
                check(r == 0 ? strcmp(place, again) == 0 : r == -ENAMETOOLONG || r == -ELOOP || r == -ENOENT);
                check(pc_mkdirs_in(root, path, 0700, 3, 4, again, sizeof again, &err) == 0 &&
                      strcmp(place, again) == 0);
                check(lstat(place, &other) == 0 && other.st_mode == st.st_mode && other.st_uid == st.st_uid);
        } else {
                check(r == -err.code && err.step);
        }
        _cleanup_fd_ int fd = -1;
        (void) pc_open_in(root, path, O_PATH, 0, &fd, &err);
        check(pc_dirs_remove(base, "root", &err) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        enum { WORDS = 15 };
        struct stat before, now;
        char *words[WORDS], *text = malloc(size + 2);
        int n = 0;
        check(text != NULL);
        if (base < 0)
                set_up();
        memcpy(text, data, size);
        text[size] = text[size + 1] = '\0';
        for (size_t at = 0; at <= size && n < WORDS; at += strlen(text + at) + 1)
                words[n++] = text + at;
        check(fstatat(base, "out", &before, 0) == 0);
        one(words, n);
        check(fstatat(base, "out", &now, 0) == 0 && entries_of(".") == 1 && entries_of("out") == 1);
        check(now.st_nlink == before.st_nlink && now.st_ctim.tv_sec == before.st_ctim.tv_sec &&
              now.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
        free(text);
        return 0;
}
