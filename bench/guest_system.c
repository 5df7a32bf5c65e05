/* What bench/cpu_bound.py and system.py compile and run in the guest:
 *     guest_system NAME COUNT       do something of the kernel's so many times
 *     guest_system run COMMAND...   a command, its stdout counted
 *     guest_system text MEGABYTES   words on stdout, the same everywhere
 * Prints a checksum and the nanoseconds that it took on this clock. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *self;

static void check(int failed, const char *what)
{
	if (failed) {
		perror(what);
		exit(1);
	}
}

static int ended(pid_t pid)
{
	int status;
	check(waitpid(pid, &status, 0) < 0, "waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A process that starts a program, which ends at once. */
static uint64_t fork_exec(uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		pid_t pid = fork();
		check(pid < 0, "fork");
		if (!pid) {
			execl(self, self, "end", (char *)0);
			_exit(127);
		}
		if (ended(pid))
			exit(1);
	}
	return count;
}

static uint64_t getppids(uint64_t count)
{
	uint64_t same = 0, parent = getppid();
	for (uint64_t i = 0; i < count; i++)
		same += (uint64_t)syscall(SYS_getppid) == parent;
	return same;
}

/* One CPU for this and its children, as most guests have. */
static void one_cpu(void)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	check(sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
}

/* A byte there and back, between two processes. */
static uint64_t pipes(uint64_t count)
{
	int there[2], back[2];
	char byte = 1;
	one_cpu();
	check(pipe(there) || pipe(back), "pipe");
	pid_t pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		for (uint64_t i = 0; i < count; i++)
			if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
				_exit(1);
		_exit(0);
	}
	for (uint64_t i = 0; i < count; i++)
		check(write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1, "pipe");
	return ended(pid) ? 0 : count;
}

/* First touches of fresh memory, 4 MiB mapped and unmapped at a time. */
static uint64_t faults(uint64_t count)
{
	const size_t size = 4 << 20, page = 4096;
	uint64_t done = 0;
	while (done < count) {
		char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(memory == MAP_FAILED, "mmap");
		madvise(memory, size, MADV_NOHUGEPAGE);
		for (size_t at = 0; at < size && done < count; at += page, done++)
			memory[at] = 1;
		munmap(memory, size);
	}
	return done;
}

/* Two processes that wake each other through a word of shared memory. */
static void turn(uint32_t *word, uint32_t mine, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		while (__atomic_load_n(word, __ATOMIC_ACQUIRE) != mine)
			syscall(SYS_futex, word, FUTEX_WAIT, !mine, 0, 0, 0);
		__atomic_store_n(word, !mine, __ATOMIC_RELEASE);
		syscall(SYS_futex, word, FUTEX_WAKE, 1, 0, 0, 0);
	}
}

static uint64_t switches(uint64_t count)
{
	one_cpu();
	uint32_t *word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(word == MAP_FAILED, "mmap");
	pid_t pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		turn(word, 1, count);
		_exit(0);
	}
	turn(word, 0, count);
	return ended(pid) ? 0 : count;
}

/* A command, to its end; how many bytes it printed. */
static uint64_t run(char **words)
{
	static char buffer[1 << 16];
	int out[2];
	uint64_t bytes = 0;
	check(pipe(out), "pipe");
	pid_t pid = fork();
	check(pid < 0, "fork");
	if (!pid) {
		dup2(out[1], 1);
		close(out[0]);
		close(out[1]);
		execvp(*words, words);
		perror(*words);
		_exit(127);
	}
	close(out[1]);
	for (ssize_t got; (got = read(out[0], buffer, sizeof buffer)) > 0;)
		bytes += got;
	if (ended(pid))
		exit(1);
	return bytes;
}

/* Text that compresses as prose does: few words often, many seldom. */
static int text(uint64_t megabytes)
{
	static char vocabulary[4096][12];
	uint64_t state = 88172645463325252u, left = megabytes * 1000000;
	for (int i = 0; i < 4096; i++)
		for (int j = 0, size = 2 + i % 9; j < size; j++) {
			state = state * 6364136223846793005u + 1442695040888963407u;
			vocabulary[i][j] = 'a' + (state >> 33) % 26;
		}
	while (left) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		uint64_t pick = (state >> 40) & 4095, rare = (state >> 52) & 4095;
		const char *word = vocabulary[pick * rare >> 12];
		uint64_t size = strlen(word);
		if (size >= left)
			size = left - 1;
		fwrite(word, 1, size, stdout);
		fputc(state >> 60 ? ' ' : '\n', stdout);
		left -= size + 1;
	}
	return fflush(stdout) ? 1 : 0;
}

static const struct {
	const char *name;
	uint64_t (*run)(uint64_t count);
} programs[] = {
	{"fork_exec", fork_exec}, {"getppid", getppids}, {"pipe", pipes},
	{"faults", faults}, {"switch", switches},
};

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

int main(int count, char **words)
{
	self = words[0];
	if (count == 2 && !strcmp(words[1], "end"))
		return 0;
	if (count < 3)
		return 2;
	if (!strcmp(words[1], "text"))
		return text(strtoull(words[2], 0, 10));
	int64_t start = now();
	uint64_t result = 0;
	int known = !strcmp(words[1], "run");
	if (known)
		result = run(words + 2);
	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
		if (!strcmp(words[1], programs[i].name)) {
			result = programs[i].run(strtoull(words[2], 0, 10));
			known = 1;
		}
	if (!known)
		return 2;
	printf("%llu %lld\n", (unsigned long long)result, (long long)(now() - start));
	return 0;
}
