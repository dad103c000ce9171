/*
 * computation <file> [<steps>]: the orbits of the solar system's outer planets in miniature, step by step, in floating point whose
 * every bit depends on all before. It ends after the steps, or at SIGTERM, and writes "<steps> <bits of the state>\n" into the file.
 */
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODIES 8

static volatile sig_atomic_t asked_to_end;

static void end(int signal)
{
	asked_to_end = signal;
}

int main(int argc, char **argv)
{
	double place[BODIES][3], speed[BODIES][3];
	uint64_t steps = argc > 2 ? strtoull(argv[2], NULL, 10) : UINT64_MAX;
	uint64_t step;
	FILE *file;

	if (argc < 2)
		return 2;
	signal(SIGTERM, end);
	for (int body = 0; body < BODIES; body++)
		for (int axis = 0; axis < 3; axis++) {
			place[body][axis] = sin(body * 3 + axis + 1);
			speed[body][axis] = cos(body * 5 + axis) / 8;
		}
	for (step = 0; step < steps && !asked_to_end; step++) {
		for (int one = 0; one < BODIES; one++)
			for (int other = 0; other < BODIES; other++) {
				double apart[3], square = 0.01, pull;

				for (int axis = 0; axis < 3; axis++) {
					apart[axis] = place[other][axis] - place[one][axis];
					square += apart[axis] * apart[axis];
				}
				pull = 1e-4 / (square * sqrt(square));
				for (int axis = 0; axis < 3; axis++)
					speed[one][axis] += apart[axis] * pull;
			}
		for (int body = 0; body < BODIES; body++)
			for (int axis = 0; axis < 3; axis++)
				place[body][axis] += speed[body][axis] * 1e-3;
	}
	file = fopen(argv[1], "w");
	if (!file)
		return 1;
	fprintf(file, "%llu", (unsigned long long)step);
	for (int body = 0; body < BODIES; body++)
		for (int axis = 0; axis < 3; axis++) {
			uint64_t bits;

			memcpy(&bits, &place[body][axis], sizeof(bits));
			fprintf(file, " %016llx", (unsigned long long)bits);
		}
	fputc('\n', file);
	return fclose(file) == 0 ? 0 : 1;
}
