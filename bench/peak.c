/* peak FILE COMMAND ARG...: run a command and write the peak resident KiB of it and its children to FILE.
 *
 * A program of its own, as the kernel counts the memory of whoever calls vfork and exec into the child's peak. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct rusage usage;
    int status;
    if (argc < 3)
        return 2;
    pid_t child = fork();
    if (child == 0) {
        execv(argv[2], argv + 2);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) < 0)
        return 126;
    FILE *file = fopen(argv[1], "w");
    if (!file)
        return 126;
    fprintf(file, "%ld\n", usage.ru_maxrss);
    fclose(file);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 125;
}
