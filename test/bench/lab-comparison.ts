import { setMaxListeners } from 'node:events';
import { BugError } from '../../cli/errors.js';
import { type Profile, profile } from './lab-profile.js';
import { benchEnvironment } from './lab-programs.js';
import { type Ratios, ratiosOf, type Samples, type VariantName } from './lab-ratios.js';
import { type Path, Scene, VARIANTS } from './lab-scene.js';
import { KINDS, type Kind, measure, type Sample } from './lab-traffic.js';

export interface LabComparisonOptions {
  /** One round of half a second each, to see that everything works. */
  readonly quick: boolean;
  /** How often every path is measured, interleaved with the others. */
  readonly rounds: number;
  /** How long one measurement takes. iperf3 and sockperf know whole seconds only. */
  readonly seconds: number;
  readonly onProgress: (line: string) => void;
  readonly signal: AbortSignal;
}

export interface LabComparison {
  readonly rounds: number;
  /** Everything that was measured, by variant, path and kind. */
  readonly samples: Readonly<Record<VariantName, Samples>>;
  /** Each named by what it is compared with. Of `rtt`, less is better; of the others, more. */
  readonly ratios: Ratios;
  /** Of the departed server's path. */
  readonly profiles: Readonly<Record<VariantName, Profile>>;
}

/**
 * Compares a server at home, departed and reached directly with what else could send its clients to another host. All of it
 * runs in labs of its own, in interleaved rounds; nothing is left of them, also when `signal` aborts it.
 * @throws {ExternalError} what could not be built, or a traffic tool that failed
 */
export async function compareInLab(options: LabComparisonOptions): Promise<LabComparison> {
  const { signal, quick, onProgress } = options;
  setMaxListeners(0, signal); // every program that runs listens to it
  const rounds = quick ? 1 : options.rounds;
  const seconds = quick ? 0.5 : options.seconds;
  const env = await benchEnvironment('datapath', signal);
  const samples: Partial<Record<VariantName, Samples>> = {};
  const profiles: Partial<Record<VariantName, Profile>> = {};
  for (const variant of VARIANTS) {
    onProgress(`${variant.name}: building two labs`);
    const scene = await Scene.up(variant, { env, seconds, signal });
    try {
      samples[variant.name] = await measureAll(scene.paths, rounds, (line) => onProgress(`${variant.name}: ${line}`));
      profiles[variant.name] = await profileDeparted(scene);
    } finally {
      await scene.down();
    }
  }
  return {
    rounds,
    samples: samples as Record<VariantName, Samples>,
    ratios: ratiosOf(samples),
    profiles: profiles as Record<VariantName, Profile>,
  };
}

async function profileDeparted({ paths, accounted }: Scene): Promise<Profile> {
  const departed = paths.find(({ name }) => name === 'departed');
  if (departed === undefined) throw new BugError('nothing has departed');
  const { target, close } = await departed.open();
  try {
    return await profile(accounted, target);
  } finally {
    await close();
  }
}

/** Every other round goes backwards: what comes after what, and what grows with time, is then the same for all. */
async function measureAll(
  paths: readonly Path[],
  rounds: number,
  onProgress: (line: string) => void,
): Promise<Samples> {
  const samples: Record<string, Record<Kind, Sample[]>> = {};
  for (const { name } of paths) samples[name] = { upload: [], download: [], requests: [], connects: [], rtt: [] };
  for (let round = 1; round <= rounds; round++) {
    for (const path of round % 2 === 1 ? paths : [...paths].reverse()) {
      const { target, close } = await path.open();
      const words: string[] = [];
      try {
        for (const kind of KINDS) {
          const sample = await measure(kind, target);
          samples[path.name]?.[kind].push(sample);
          words.push(inWords(kind, sample));
        }
      } finally {
        await close();
      }
      onProgress(`round ${round}/${rounds}, ${path.name}: ${words.join(', ')}`);
    }
  }
  return samples;
}

function inWords(kind: Kind, { value }: Sample): string {
  if (kind === 'rtt') return `round trip ${value.toFixed(1)} µs`;
  if (kind === 'requests' || kind === 'connects') return `${Math.round(value).toLocaleString('en')} ${kind}/s`;
  return `${kind} ${(value / 1e9).toFixed(2)} Gbit/s`;
}
