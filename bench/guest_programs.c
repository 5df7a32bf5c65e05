/* What bench/interpreter.py compiles and runs in the guest: guest_programs NAME ROUNDS.
 * Prints a checksum, which must be the same wherever it runs, and the nanoseconds that it took.
 * One round is about a million instructions; none of them calls the kernel. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NOINLINE __attribute__((noinline))

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

/* Registers only: shifts, multiplications, additions, a compare and a branch. */
NOINLINE static uint64_t integer(uint64_t rounds)
{
	uint64_t state = 88172645463325252u, sum = 0;
	for (uint64_t i = 0; i < rounds * 36000; i++) {
		uint64_t value = next(&state);
		sum += value % 7 < 3 ? value * 0x9E3779B97F4A7C15u : ~value;
	}
	return sum;
}

/* Stores in strides through 64 KiB. Each round has a mark of its own, so nothing is cleared. */
NOINLINE static uint64_t sieve(uint64_t rounds)
{
	static uint8_t composite[65536];
	uint64_t sum = 0;
	for (uint64_t r = 0; r < rounds; r++) {
		uint8_t mark = r % 255 + 1;
		for (uint32_t i = 2; i < sizeof composite; i++) {
			if (composite[i] == mark)
				continue;
			sum += i;
			for (uint32_t j = 2 * i; j < sizeof composite; j += i)
				composite[j] = mark;
		}
	}
	return sum;
}

/* A hash table with chains: dependent loads. */
struct node {
	struct node *next;
	uint64_t key, value;
};

NOINLINE static uint64_t hash(uint64_t rounds)
{
	static struct node *buckets[4096], nodes[16384];
	uint64_t state = 1, sum = 0;
	for (uint64_t i = 0; i < 16384; i++) {
		struct node **bucket = &buckets[i * 2654435761u >> 4 & 4095];
		nodes[i] = (struct node){*bucket, i, i * i};
		*bucket = &nodes[i];
	}
	for (uint64_t i = 0; i < rounds * 33000; i++) {
		uint64_t key = next(&state) & 16383;
		struct node *node = buckets[key * 2654435761u >> 4 & 4095];
		while (node->key != key)
			node = node->next;
		sum += node->value++;
	}
	return sum;
}

/* Calls and returns. */
NOINLINE static uint64_t fibonacci(uint64_t n)
{
	if (n < 2)
		return n;
	uint64_t sum = fibonacci(n - 1);
	__asm__ volatile("" : "+r"(sum)); /* or the compiler makes a loop of the second call */
	return sum + fibonacci(n - 2);
}

static uint64_t calls(uint64_t rounds)
{
	uint64_t sum = 0;
	for (uint64_t r = 0; r < rounds; r++)
		sum += fibonacci(23);
	return sum;
}

/* A small virtual machine: an indirect jump for each of its instructions. */
NOINLINE static uint64_t dispatch(uint64_t rounds)
{
	static const uint8_t code[] = {0, 1, 2, 3, 1, 4, 2, 0, 5, 3, 1, 2, 4, 0, 3, 6};
	static const void *const labels[] = {&&add, &&xor, &&rotate, &&load, &&store, &&twice, &&end};
	uint64_t a = 1, b = 2, cells[8] = {0}, left = rounds * 12000;
	const uint8_t *at = code;
	goto *labels[*at++];
add:	a += b; goto *labels[*at++];
xor:	b ^= a; goto *labels[*at++];
rotate:	a = a << 5 | a >> 59; goto *labels[*at++];
load:	b += cells[a & 7]; goto *labels[*at++];
store:	cells[b & 7] = a; goto *labels[*at++];
twice:	a *= 3; goto *labels[*at++];
end:
	at = code;
	if (--left)
		goto *labels[*at++];
	return a ^ b;
}

/* The C library's qsort, with a call back for each comparison. */
static int compare(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
	return (a > b) - (a < b);
}

NOINLINE static uint64_t sort(uint64_t rounds)
{
	static uint32_t values[4096];
	uint64_t state = 7, sum = 0;
	for (uint64_t r = 0; r < rounds; r++) {
		for (int i = 0; i < 4096; i++)
			values[i] = next(&state);
		qsort(values, 4096, sizeof *values, compare);
		sum += values[r & 4095] + (uint64_t)values[2048] * 3;
	}
	return sum;
}

/* SHA-256's compression function: rotations and additions over a small schedule. */
static uint32_t ror(uint32_t value, int count)
{
	return value >> count | value << (32 - count);
}

NOINLINE static void compress(uint32_t *h, const uint32_t *k, uint32_t *w)
{
	uint32_t v[8];
	for (int i = 16; i < 64; i++) {
		uint32_t x = w[i - 15], y = w[i - 2];
		w[i] = w[i - 16] + (ror(x, 7) ^ ror(x, 18) ^ x >> 3) + w[i - 7] +
		       (ror(y, 17) ^ ror(y, 19) ^ y >> 10);
	}
	memcpy(v, h, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t s1 = ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25);
		uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
		uint32_t s0 = ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22);
		uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof *v);
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

NOINLINE static uint64_t digest(uint64_t rounds)
{
	static uint32_t h[8], k[64], w[64];
	uint64_t state = 3;
	for (int i = 0; i < 64; i++)
		k[i] = next(&state);
	for (uint64_t r = 0; r < rounds * 250; r++) {
		for (int i = 0; i < 16; i++)
			w[i] = h[i & 7] + i;
		compress(h, k, w);
	}
	return (uint64_t)h[0] << 32 | h[1];
}

/* Double-precision multiplication of matrices: SSE2. */
NOINLINE static uint64_t matrix(uint64_t rounds)
{
	static double a[63][63], b[63][63], c[63][63];
	for (int i = 0; i < 63; i++)
		for (int j = 0; j < 63; j++)
			a[i][j] = i + j, b[i][j] = i - j;
	for (uint64_t r = 0; r < rounds; r++)
		for (int i = 0; i < 63; i++)
			for (int j = 0; j < 63; j++) {
				double sum = 0;
				for (int k = 0; k < 63; k++)
					sum += a[i][k] * b[k][j];
				c[i][j] += sum;
			}
	return (uint64_t)(int64_t)c[5][7];
}

static const struct {
	const char *name;
	uint64_t (*run)(uint64_t rounds);
} programs[] = {
	{"integer", integer}, {"sieve", sieve}, {"hash", hash}, {"calls", calls},
	{"dispatch", dispatch}, {"sort", sort}, {"digest", digest}, {"matrix", matrix},
};

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ll + time.tv_nsec;
}

int main(int count, char **words)
{
	for (size_t i = 0; count == 3 && i < sizeof programs / sizeof *programs; i++) {
		if (strcmp(words[1], programs[i].name))
			continue;
		uint64_t rounds = strtoull(words[2], 0, 10);
		int64_t start = now();
		unsigned long long sum = rounds ? programs[i].run(rounds) : 0;
		printf("%llu %lld\n", sum, (long long)(now() - start));
		return 0;
	}
	return 2;
}
