import { readText } from './procfs.js';

/**
 * Flags of /proc/cpuinfo (arch/x86/include/asm/cpufeatures.h; `Features` on arm64) that a program may find out and use by itself.
 * The others are the kernel's own affair: mitigations, timers, virtualization.
 */
const USED_BY_PROGRAMS =
  /^(fpu|cx8|cx16|cmov|mmx|mmxext|3dnow\w*|fxsr|fxsr_opt|sse\w*|ssse3|pni|fma|fma4|f16c|movbe|popcnt|aes|vaes|pclmulqdq|vpclmulqdq|xsave\w*|avx\w*|amx_\w+|rdrand|rdseed|bmi[12]|abm|lahf_lm|adx|sha_ni|sha512|sm[34]|gfni|rtm|hle|erms|fsrm|clflush\w*|clwb|cldemote|movdiri|movdir64b|enqcmd|waitpkg|serialize|fsgsbase|rdtscp|rdpid|tbm|xop|misalignsse|prefetchw\w*|3dnowprefetch|ospke|user_shstk|ptwrite|hreset|cmpccxadd|lam|apx\w*|fp|asimd\w*|neon|crc32|atomics|sha[123]|sha512|sve\w*|sme\w*|pmull|paca|pacg|bti|mte\w*|lrcpc|ilrcpc|dcpop|dcpodp|jscvt|fcma|uscat|flagm\w*|frint|i8mm|bf16|bti|dgh|rng)$/;

/** Whether programs may use what has this name in /proc/cpuinfo. */
export function isProcessorFeature(name: string): boolean {
  return USED_BY_PROGRAMS.test(name);
}

let known: readonly string[] | undefined;

/** The instruction sets of this machine's processors, sorted: those that all of them have. Read once: they do not change. */
export function readProcessorFeatures(): string[] {
  known ??= parseProcessorFeatures(readText('/proc/cpuinfo') ?? '');
  return [...known];
}

/** Parses /proc/cpuinfo: a paragraph for each processor. */
export function parseProcessorFeatures(text: string): string[] {
  const processors = [...text.matchAll(/^(?:flags|Features)\s*:(.*)$/gm)].map(
    ([, flags = '']) => new Set(flags.trim().split(/\s+/)),
  );
  const [first, ...others] = processors;
  if (first === undefined) return [];
  return [...first].filter((flag) => USED_BY_PROGRAMS.test(flag) && others.every((flags) => flags.has(flag))).sort();
}
