/* What tests ask of directories. */
#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

/* Names in a directory without those that begin with a dot; 0 where there is none. */
__attribute__((unused)) static int entries(const char *dir) {
        int n = 0;
        DIR *d = opendir(dir);
        for (struct dirent *e; d && (e = readdir(d));)
                n += e->d_name[0] != '.';
        if (d)
                closedir(d);
        return n;
}

/* A new directory below dir, open. */
__attribute__((unused)) static int fresh(const char *dir, const char *name) {
        char path[200];
        (void) snprintf(path, sizeof path, "%s/%s", dir, name);
        if (mkdir(path, 0755) < 0)
                abort();
        return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}
