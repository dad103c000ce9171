// limit: 120 s
import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import * as assert from 'uvu/assert';
import {
  fitVerdicts,
  privilegeVerdicts,
  processorVerdicts,
  versionVerdicts,
} from '../../cli/migration/room-verdicts.js';
import type { Verdict } from '../../cli/process/description.js';
import type { Examination } from '../../cli/process/examine.js';
import { FileHashes } from '../../cli/process/file-hash.js';
import type { NeededFile, Needs } from '../../cli/process/needs.js';
import { parseProcessorFeatures, readProcessorFeatures } from '../../cli/system/processor.js';
import { skip } from '../skip.js';
import { suite } from '../suite.js';
import { endSubjects, enterPrivateWorld, ip, type Subject } from './private-world.js';
import { examine, HOME, startInState, words } from './verdicts-subject.js';

const test = suite('what a destination lacks');
const entered = enterPrivateWorld({ processes: false });
const folder = mkdtempSync('/tmp/homeproxy-room-');
const ROOM = { returning: false, draining: false, imageRoot: '/run/homeproxy/images', criu: '4.2.1' };

let subject: Subject;
let found: Examination;
let needs: Needs;

test.before(async () => {
  if (!entered) return;
  ip('link add away0 type veth peer name away1', `address add ${HOME}/24 dev away0`, 'link set away0 up');
  subject = await startInState(`
os.chdir('${folder}')
log = open('${folder}/log', 'w')
listener = socket.create_server(('${HOME}', 7300))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(('${HOME}', 7301))`);
  found = await examine(subject.pid);
  needs = { ...found.needs, criu: '4.2.1' };
});

async function fit(change: Partial<Needs> = {}, room: Partial<typeof ROOM> = {}): Promise<Verdict[]> {
  return await fitVerdicts(found.description, { ...needs, ...change }, { ...ROOM, ...room });
}

async function fitFile(...files: NeededFile[]): Promise<Verdict[]> {
  const verdicts = await fit({ files });
  return verdicts.filter(({ outcome }) => outcome !== 'ok');
}

test('nothing against a program of this very machine, and what was compared is said', async () => {
  const verdicts = await fit();
  assert.equal(words(verdicts), []);
  assert.equal(
    verdicts.map(({ code }) => code),
    ['SAME_FILES', 'CPU', 'MEMORY'],
  );
  assert.match(verdicts[0]?.reason ?? '', /^\d+ files that it has mapped or open are the same here, byte for byte/);
});

test('a mapped file that is missing, has another size, other permissions or another content', async () => {
  const library = `${folder}/library.so`;
  writeFileSync(library, 'version 1', { mode: 0o644 });
  const { size: bytes, mode } = statSync(library);
  const needed = { path: library, use: 'mapped' as const, bytes, mode };
  const sha256 = await new FileHashes().sha256(library);
  assert.equal(await fitFile({ ...needed, sha256 }), []);
  const other = await fitFile({ ...needed, sha256: '0'.repeat(64) });
  assert.equal(words(other), ['refused FILE_DIFFERS']);
  assert.is(other[0]?.subject, library);
  assert.match(other[0]?.reason ?? '', /same size and another content: two versions of it in one process/);
  assert.match((await fitFile({ ...needed, bytes: 99 }))[0]?.reason ?? '', /9 bytes here, and 99 where the process is/);
  assert.match((await fitFile({ ...needed, mode: mode | 0o22 }))[0]?.reason ?? '', /permissions are 644 here, and 666/);
  assert.equal(words(await fitFile({ ...needed, sha256, path: `${folder}/nowhere.so` })), ['refused FILE_MISSING']);
  assert.equal(words(await fitFile(needed)), ['will-change UNVERIFIED_FILES']);
});

test('an open file is compared by its content, and as CRIU does by its size and permissions; a folder must be one', async () => {
  const path = `${folder}/data`;
  writeFileSync(path, 'data', { mode: 0o600 });
  const { mode } = statSync(path);
  const sha256 = await new FileHashes().sha256(path);
  assert.equal(await fitFile({ path, use: 'open', bytes: 4, mode, sha256 }), []);
  assert.equal(words(await fitFile({ path, use: 'open', bytes: 4, mode })), ['will-change UNVERIFIED_FILES']);
  assert.equal(words(await fitFile({ path, use: 'open', bytes: 5, mode, sha256 })), ['refused FILE_DIFFERS']);
  assert.equal(words(await fitFile({ path, use: 'special', mode: 0o20666 })), ['refused FILE_DIFFERS']);
  assert.equal(await fitFile({ path: folder, use: 'folder' }), []);
  assert.equal(words(await fitFile({ path, use: 'folder' })), ['refused FILE_MISSING']);
});

test('an open file that is being written may have grown here, if it is the one of both hosts: that is said', async () => {
  const path = `${folder}/growing`;
  writeFileSync(path, 'one line\n');
  const { mode, mtimeMs } = statSync(path);
  const needed = { path, use: 'open' as const, bytes: 4, mode };
  const byItsSize = ['will-change UNVERIFIED_FILES'];
  assert.equal(words(await fitFile({ ...needed, changedAtMs: mtimeMs - 1000 })), byItsSize);
  assert.equal(words(await fitFile({ ...needed, changedAtMs: mtimeMs + 1000 })), ['refused FILE_DIFFERS']);
  const sha256 = await new FileHashes().sha256(path);
  assert.equal(await fitFile({ ...needed, bytes: 9, sha256, changedAtMs: mtimeMs - 60_000 }), []);
});

test('an open file whose content was compared may only differ here when it was written since, and a moment ago', async () => {
  const path = `${folder}/settled`;
  writeFileSync(path, 'here', { mode: 0o644 });
  const { mode, mtimeMs } = statSync(path);
  const needed = { path, use: 'open' as const, bytes: 4, mode, sha256: '0'.repeat(64) };
  const grown = { ...needed, bytes: 3 };
  for (const file of [needed, grown]) {
    assert.equal(words(await fitFile({ ...file, changedAtMs: mtimeMs - 60_000 })), ['will-change UNVERIFIED_FILES']);
    assert.equal(words(await fitFile({ ...file, changedAtMs: mtimeMs })), ['refused FILE_DIFFERS']);
  }
  const longAgo = new Date(mtimeMs - 3_600_000);
  utimesSync(path, longAgo, longAgo);
  assert.equal(words(await fitFile({ ...needed, changedAtMs: mtimeMs - 7_200_000 })), ['refused FILE_DIFFERS']);
});

test('a copy of a deleted file needs a folder that can be written; a socket of a service needs the service', async () => {
  assert.equal(await fitFile({ path: `${folder}/new/gone`, use: 'ghost' }), []);
  assert.equal(words(await fitFile({ path: '/proc/sys/gone', use: 'ghost' })), ['refused FILE_READ_ONLY']);
  const peer = { path: `${folder}/log.sock`, use: 'peer' as const };
  const own = { path: `${folder}/log.sock`, use: 'listener' as const };
  assert.equal(words(await fitFile(peer)), ['refused NO_SERVICE']);
  assert.equal(await fitFile(own), []);
  const service = await startInState(`
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind('${peer.path}')`);
  try {
    assert.equal(await fitFile(peer), []);
    assert.equal(words(await fitFile(own)), ['refused UNIX_PATH_TAKEN']);
  } finally {
    service.kill();
  }
  assert.equal(words(await fitFile({ path: `${folder}/nowhere/sock`, use: 'listener' })), ['refused FILE_MISSING']);
});

test('a processor that lacks an instruction set is refused by its name; one that has more is not', async () => {
  const here = readProcessorFeatures();
  assert.equal(processorVerdicts(here.slice(1), here)[0]?.code, 'CPU');
  const verdicts = await fit({ cpuFeatures: [...here, 'avx1024'] });
  assert.equal(words(verdicts), ['refused CPU_FEATURES']);
  assert.match(verdicts.find(({ code }) => code === 'CPU_FEATURES')?.reason ?? '', /lack avx1024,/);
});

test('what counts of a processor: instruction sets that all cores have, not the affairs of the kernel', () => {
  const text = `processor\t: 0
flags\t\t: fpu sse2 avx2 pti rep_good amx_tile
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse2 avx2 pti rep_good
`;
  assert.equal(parseProcessorFeatures(text), ['avx2', 'fpu', 'sse2']);
  assert.equal(parseProcessorFeatures('Features\t: fp asimd aes crc32 cpuid\n'), ['aes', 'asimd', 'crc32', 'fp']);
  assert.equal(parseProcessorFeatures(''), []);
});

test('memory: what is free, what the folder of the images holds, huge pages', async () => {
  const huge = 2 ** 50;
  const verdicts = await fit({ memoryBytes: huge });
  assert.equal(words(verdicts), ['refused NO_MEMORY', 'refused NO_ROOM']);
  assert.equal(words(await fit({ hugeBytes: huge })), ['refused NO_HUGE_PAGES']);
});

test('capabilities that this node could not give, and a CRIU that is older here', async () => {
  assert.equal(words(await fit({ capabilities: (1n << 62n).toString(16) })), ['refused CAPABILITIES']);
  assert.equal(words(await fit({}, { criu: '4.1' })), ['will-change CRIU_OLDER']);
  assert.equal(versionVerdicts('4.2.1', '4.2'), []);
  assert.equal(versionVerdicts('4.2', '5.0'), []);
  assert.equal(versionVerdicts('3.19', '4.2'), []);
  assert.is(versionVerdicts('5.0', '4.9')[0]?.code, 'CRIU_OLDER');
});

test('seccomp and IPv6 that a process needs and this node lacks, in the words of another kernel', () => {
  const status = 'CapPrm:\t000001ffffffffff\nSeccomp:\t0\n';
  const process = { capabilities: '0', seccomp: true, ipv6: true };
  assert.equal(privilegeVerdicts(process, status, true), []);
  const missing = (lacking: typeof process, text: string, ipv6: boolean): string[] =>
    privilegeVerdicts(lacking, text, ipv6).map(({ code, subject }) => `${code} ${subject}`);
  assert.equal(missing(process, status, false), ['FEATURE_MISSING IPv6']);
  assert.equal(missing(process, 'CapPrm:\t0\n', true), ['FEATURE_MISSING seccomp']);
  assert.equal(missing(process, status.replace('Seccomp:\t0', 'Seccomp:\t2'), true), ['FEATURE_MISSING seccomp']);
  assert.equal(missing({ ...process, seccomp: false, ipv6: false }, 'CapPrm:\t0\n', false), []);
});

test('more in /dev/shm than is in its memory takes too long while it stands still; less does not', async () => {
  const shared = (mebibytes: number) => ({ sharedMemory: [{ names: ['a', 'b'], bytes: mebibytes << 20 }] });
  assert.equal(words(await fit(shared(100))), []);
  assert.equal(words(await fit(shared(1000))), ['refused SHM_LARGE']);
});

test('a node that is being drained takes no process', async () => {
  assert.equal(words(await fit({}, { draining: true })), ['refused DRAINING']);
});

test('coming home: its pid and its ports are its own, or another has taken them', async () => {
  const verdicts = await fit({}, { returning: true }); // its own sockets stand for another's
  assert.equal(words(verdicts), ['refused PID_TAKEN', 'refused PORT_TAKEN', 'refused PORT_TAKEN']);
  assert.equal(
    verdicts.filter(({ code }) => code === 'PORT_TAKEN').map(({ subject }) => subject),
    ['port tcp 7300', 'port udp 7301'],
  );
  subject.kill();
  await subject.ended();
  assert.equal(words(await fit({}, { returning: true })), []);
});

test('a file is read once for its hash, until it changes', async () => {
  const hashes = new FileHashes();
  const path = '/bin/sh';
  const first = await hashes.sha256(path);
  assert.match(first, /^[0-9a-f]{64}$/);
  assert.equal(await Promise.all([hashes.sha256(path), hashes.sha256(path)]), [first, first]);
  assert.is(hashes.reads, 1);
  const young = `${folder}/young`;
  writeFileSync(young, 'one');
  utimesSync(young, 1, 1);
  const before = await hashes.sha256(young);
  writeFileSync(young, 'two'); // the same size, and the same mtime in a moment
  utimesSync(young, 1, 1);
  assert.is.not(await hashes.sha256(young), before);
});

test.after(() => {
  endSubjects();
  rmSync(folder, { recursive: true, force: true });
});

if (!entered) skip(test, 'what a destination lacks', 'needs root');
test.run();
