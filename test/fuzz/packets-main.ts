/**
 * Mutated packets through the real programs (BPF_PROG_TEST_RUN), every one of them held against the invariants in check.ts:
 * `npm run fuzz:packets [-- --packets N --seed S --scene N --seconds T --json]`.
 * Exit status: 0 every invariant held; 1 a packet broke one; 2 wrong use.
 */
import '../addon/private-namespaces.js';
import { parseArgs } from 'node:util';
import { type CampaignReport, type Failure, runCampaign } from './campaign.js';

const PACKETS = 10_000_000;
const PROGRESS_MS = 10_000;

function whole(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const number = Number(text);
  if (!Number.isInteger(number) || number < 0) throw new RangeError(`--${name} takes a whole number, not '${text}'`);
  return number;
}

function printFailure({ seed, scene, packet, invariant, description, packets }: Failure): void {
  console.error(`\nBROKEN: ${invariant}`);
  console.error(`seed ${seed}, scene ${scene}, packet ${packet}: --seed ${seed} --scene ${scene} shows it again`);
  console.error(JSON.stringify(description));
  for (const { hex, mark, gsoSize } of packets) {
    console.error(
      `${hex}${mark === 0 ? '' : ` mark 0x${mark.toString(16)}`}${gsoSize === 0 ? '' : ` segments of ${gsoSize}`}`,
    );
  }
}

function print({ seed, packets, refused, scenes, seconds, fast, reasons }: CampaignReport): void {
  for (const [program, row] of Object.entries(reasons)) {
    const counts = Object.entries(row).sort(([, a], [, b]) => b - a);
    console.log(`${program.padEnd(10)} ${counts.map(([reason, count]) => `${reason} ${count}`).join(', ')}`);
  }
  const taken = Object.entries(fast).filter(([, count]) => count > 0);
  console.log(`tunnelled by fast paths: ${taken.map(([program, count]) => `${program} ${count}`).join(', ')}`);
  const rate = Math.round(packets / seconds / 1000);
  console.log(`seed ${seed}: ${packets} packets in ${scenes} scenes, ${refused} not taken by the kernel`);
  console.log(`${seconds.toFixed(1)} s, ${rate} thousand packets a second`);
}

function main(): number {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: { packets: text, seed: text, scene: text, seconds: text, json: { type: 'boolean' } },
  });
  const [packets, seed, scene, seconds] = (['packets', 'seed', 'scene', 'seconds'] as const).map((name) =>
    whole(name, values[name]),
  );
  let said = performance.now();
  const report = runCampaign({
    packets: packets ?? PACKETS,
    seed: seed ?? Date.now() % 1_000_000_000,
    ...(scene === undefined ? {} : { scene }),
    ...(seconds === undefined ? {} : { seconds }),
    onProgress(done) {
      if (values.json || performance.now() - said < PROGRESS_MS) return;
      said = performance.now();
      console.log(`${done} packets ...`);
    },
  });
  if (values.json) console.log(JSON.stringify(report));
  else print(report);
  if (report.failure === undefined) return 0;
  if (!values.json) printFailure(report.failure);
  return 1;
}

try {
  process.exitCode = main();
} catch (error) {
  if (!(error instanceof RangeError || (error as { code?: string }).code?.startsWith('ERR_PARSE_ARGS'))) throw error;
  console.error((error as Error).message);
  process.exitCode = 2;
}
