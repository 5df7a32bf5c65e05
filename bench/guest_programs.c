/* What bench/interpreter.py and cpu_bound.py compile and run in the guest:
 * guest_programs NAME ROUNDS.
 * Prints a checksum, which must be the same wherever it runs, and the nanoseconds that it took.
 * One round is about a million instructions; none of them calls the kernel. */
#include <immintrin.h>
#include <math.h>
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

/* Dependent loads all over 16 MiB: one cycle through every line, in a shuffled order. */
NOINLINE static uint64_t chase(uint64_t rounds)
{
	enum { LINES = 1 << 18 };
	static struct line {
		struct line *next;
		uint64_t pad[7];
	} lines[LINES];
	static uint32_t order[LINES];
	uint64_t state = 11;
	for (uint32_t i = 0; i < LINES; i++)
		order[i] = i;
	for (uint32_t i = LINES - 1; i > 0; i--) {
		uint32_t j = next(&state) % (i + 1), swapped = order[i];
		order[i] = order[j];
		order[j] = swapped;
	}
	for (uint32_t i = 0; i < LINES; i++)
		lines[order[i]].next = &lines[order[(i + 1) % LINES]];
	struct line *at = lines;
	for (uint64_t i = 0; i < rounds * 40000; i++)
		at = at->next;
	return at - lines;
}

/* Words in sequence through 24 MiB: two streams read, one written. */
NOINLINE static uint64_t stream(uint64_t rounds)
{
	enum { WORDS = 1 << 20 };
	static uint64_t a[WORDS], b[WORDS], c[WORDS];
	uint64_t sum = 0;
	for (uint64_t i = 0; i < WORDS; i++)
		a[i] = i, b[i] = ~i;
	for (uint64_t r = 0; r < rounds; r++) {
		uint64_t first = r % 4 * (WORDS / 4);
		for (uint64_t i = first; i < first + WORDS / 4; i++) {
			c[i] = a[i] + 3 * b[i];
			__asm__ volatile("" ::: "memory"); /* a word at a time */
		}
		sum += c[first + r % 1000];
	}
	return sum;
}

/* Calls through pointers: four kinds of object in an order that repeats after 61. */
struct object {
	uint64_t (*step)(struct object *self, uint64_t value);
	uint64_t state;
};

#define STEP(name, result) \
	NOINLINE static uint64_t name(struct object *self, uint64_t value) { return result; }
STEP(step_add, self->state += value)
STEP(step_xor, self->state ^= value << 1)
STEP(step_rotate, self->state = (self->state << 7 | self->state >> 57) + value)
STEP(step_multiply, self->state = self->state * 31 + value)

NOINLINE static uint64_t objects(uint64_t rounds)
{
	static uint64_t (*const steps[])(struct object *, uint64_t) = {
		step_add, step_xor, step_rotate, step_multiply,
	};
	struct object all[61];
	uint64_t state = 5, sum = 0;
	for (int i = 0; i < 61; i++)
		all[i] = (struct object){steps[next(&state) & 3], i};
	for (uint64_t i = 0, left = rounds * 80000; left; left--) {
		sum += all[i].step(&all[i], left);
		i = i == 60 ? 0 : i + 1;
	}
	return sum;
}

/* An interpreter with one switch: all its indirect jumps are one. It counts primes. */
enum { LOAD, MOVE, ADD, REMAINDER, JUMP_ZERO, JUMP_LESS, COUNT, HALT };

struct step {
	uint8_t what, a, b, c;
	int32_t value;
};

NOINLINE static uint64_t run_steps(const struct step *code, int64_t limit)
{
	int64_t r[8] = {0, limit}, count = 0;
	for (const struct step *at = code;; at++)
		switch (at->what) {
		case LOAD: r[at->a] = at->value; break;
		case MOVE: r[at->a] = r[at->b]; break;
		case ADD: r[at->a] = r[at->b] + at->value; break;
		case REMAINDER: r[at->a] = r[at->b] % r[at->c]; break;
		case JUMP_ZERO: if (!r[at->a]) at += at->value; break;
		case JUMP_LESS: if (r[at->a] < r[at->b]) at += at->value; break;
		case COUNT: count += r[at->a]; break;
		case HALT: return count;
		}
}

NOINLINE static uint64_t switches(uint64_t rounds)
{
	static const struct step code[] = {
		{LOAD, 2, 0, 0, 2},           /* candidate = 2 */
		{LOAD, 3, 0, 0, 2},           /* candidate: divisor = 2 */
		{JUMP_LESS, 3, 2, 0, 1},      /* divisor: below the candidate? */
		{JUMP_ZERO, 7, 0, 0, 4},      /* no: prime */
		{REMAINDER, 4, 2, 3, 0},
		{JUMP_ZERO, 4, 0, 0, 3},      /* divided: not prime */
		{ADD, 3, 3, 0, 1},
		{JUMP_ZERO, 7, 0, 0, -6},     /* next divisor */
		{COUNT, 2, 0, 0, 0},          /* prime */
		{ADD, 2, 2, 0, 1},            /* not prime */
		{JUMP_LESS, 2, 1, 0, -10},    /* next candidate */
		{HALT, 0, 0, 0, 0},
	};
	uint64_t sum = 0;
	for (uint64_t r = 0; r < rounds; r++)
		sum += run_steps(code, 470 + (r & 1));
	return sum;
}

/* Planets: square roots and divisions, one double at a time. */
NOINLINE static uint64_t nbody(uint64_t rounds)
{
	struct body { double at[3], speed[3], mass; } bodies[5];
	for (int i = 0; i < 5; i++)
		bodies[i] = (struct body){{i * 1.5, i * i * .25, 3. - i}, {.1 * i, .2, -.1 * i}, 1. / (i + 1)};
	for (uint64_t r = 0; r < rounds * 2500; r++) {
		for (int i = 0; i < 5; i++)
			for (int j = i + 1; j < 5; j++) {
				struct body *a = &bodies[i], *b = &bodies[j];
				double d[3], square = 1e-3;
				for (int k = 0; k < 3; k++)
					d[k] = a->at[k] - b->at[k], square += d[k] * d[k];
				double pull = .001 / (square * sqrt(square));
				for (int k = 0; k < 3; k++) {
					a->speed[k] -= d[k] * b->mass * pull;
					b->speed[k] += d[k] * a->mass * pull;
				}
			}
		for (int i = 0; i < 5; i++)
			for (int k = 0; k < 3; k++)
				bodies[i].at[k] += .001 * bodies[i].speed[k];
	}
	return (uint64_t)(int64_t)(bodies[0].at[0] * 1e9);
}

/* Mandelbrot's set in x87 code: long double. */
NOINLINE static uint64_t x87(uint64_t rounds)
{
	uint64_t sum = 0;
	for (uint64_t r = 0; r < rounds * 1400; r++) {
		long double x = 0, y = 0, u = r % 97 / 40.0L - 1.6L, v = r % 89 / 45.0L - 1;
		for (int i = 0; i < 60 && x * x + y * y < 4; i++) {
			long double next_x = x * x - y * y + u;
			y = 2 * x * y + v;
			x = next_x;
			sum++;
		}
	}
	return sum;
}

/* Four floats at a time: SSE, with compares, shuffles and unaligned loads. */
NOINLINE static uint64_t sse(uint64_t rounds)
{
	static float values[4100];
	for (int i = 0; i < 4100; i++)
		values[i] = i % 127;
	__m128 sum = _mm_setzero_ps();
	for (uint64_t r = 0; r < rounds * 70; r++)
		for (int i = 0; i < 4096; i += 4) {
			__m128 a = _mm_load_ps(values + i), b = _mm_loadu_ps(values + i + 1);
			__m128 less = _mm_cmplt_ps(a, b);
			__m128 mixed = _mm_shuffle_ps(a, b, _MM_SHUFFLE(0, 2, 1, 3));
			sum = _mm_add_ps(_mm_and_ps(less, _mm_mul_ps(mixed, b)), _mm_sub_ps(sum, a));
		}
	float out[4];
	_mm_storeu_ps(out, sum);
	return (uint64_t)(int64_t)(out[0] + out[1] + out[2] + out[3]);
}

/* Eight words at a time: AVX2 on integers and floats. */
__attribute__((target("avx2"))) NOINLINE static uint64_t avx(uint64_t rounds)
{
	static uint32_t values[8200];
	for (int i = 0; i < 8200; i++)
		values[i] = i * 2654435761u >> 8;
	__m256i sum = _mm256_setzero_si256();
	__m256 scale = _mm256_set1_ps(1.0f / 3);
	for (uint64_t r = 0; r < rounds * 60; r++)
		for (int i = 0; i < 8192; i += 8) {
			__m256i a = _mm256_loadu_si256((__m256i *)(values + i));
			__m256i b = _mm256_loadu_si256((__m256i *)(values + i + 3));
			__m256i third = _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(a), scale));
			__m256i mixed = _mm256_xor_si256(_mm256_mullo_epi32(a, b), _mm256_slli_epi32(third, 5));
			sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(mixed, 0x39));
		}
	uint32_t out[8], all = 0;
	_mm256_storeu_si256((__m256i *)out, sum);
	for (int i = 0; i < 8; i++)
		all = all * 31 + out[i];
	return all;
}

static const struct {
	const char *name;
	uint64_t (*run)(uint64_t rounds);
} programs[] = {
	{"integer", integer}, {"sieve", sieve}, {"hash", hash}, {"calls", calls},
	{"dispatch", dispatch}, {"sort", sort}, {"digest", digest}, {"matrix", matrix},
	{"chase", chase}, {"stream", stream}, {"objects", objects}, {"switches", switches},
	{"nbody", nbody}, {"x87", x87}, {"sse", sse}, {"avx", avx},
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
