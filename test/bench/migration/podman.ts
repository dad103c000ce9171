import { dirname, join } from 'node:path';
import { findCriu } from '../../../cli/checkpoint/criu.js';
import type { LabNode } from '../../../cli/lab/lab-node.js';
import { run } from '../../../cli/system/command.js';
import { benchEnvironment } from '../lab-programs.js';
import type { Asking } from './asking.js';
import { type ByHand, IMAGES, LIMIT_MS } from './by-hand.js';
import type { Case } from './cases.js';
import { listening, type Scene } from './scene.js';

const IMAGE = 'localhost/ballast:1';
const CONTAINER = 'ballast';
/** The image's files, at home, and the image, at both ends. */
const FILES = '/run/ballast-files';
const SAVED = '/run/ballast.tar';

/** All in the node's own /etc: it trusts any image, keeps them as plain folders, and tells CRIU to lock as the plain script does. */
const SETTINGS = {
  '/etc/containers/policy.json': '{"default":[{"type":"insecureAcceptAnything"}]}',
  '/etc/containers/storage.conf': '[storage]\ndriver = "vfs"\nrunroot = "/run/podman"\ngraphroot = "/var/lib/podman"\n',
  '/etc/criu/runc.conf': 'network-lock nftables\n',
};

/**
 * `podman container checkpoint --export` and `podman container restore --import` of a container that shares its node's network:
 * what has an address of its own elsewhere keeps no connection. Podman is set up in a lab once.
 */
export class Podman implements ByHand {
  private asking: Asking | undefined;

  private constructor(private readonly env: NodeJS.ProcessEnv) {}

  /** @throws {ExternalError} `COMMAND_FAILED`: it does not run here */
  static async setUp(scene: Scene, signal: AbortSignal): Promise<Podman> {
    const found = await benchEnvironment('migration', signal);
    const { PATH } = found;
    const podman = new Podman({
      ...found,
      PATH: [dirname(findCriu('auto')), PATH ?? process.env.PATH].filter(Boolean).join(':'),
    });
    const { stdout } = await scene.home.run(['sh', '-c', 'command -v conmon; command -v runc'], podman.with());
    const [conmon, runc] = stdout.trim().split('\n');
    const containers = `[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\nconmon_path = ["${conmon}"]\n[engine.runtimes]\nrunc = ["${runc}"]\n`;
    for (const node of [scene.home, scene.host]) {
      for (const [path, text] of Object.entries({ ...SETTINGS, '/etc/containers/containers.conf': containers })) {
        await node.run(['sh', '-c', 'mkdir -p "$1" && printf %s "$2" >"$3"', 'sh', dirname(path), text, path]);
      }
    }
    await podman.makeImage(scene);
    return podman;
  }

  async start(scene: Scene, what: Case, address: string): Promise<Asking> {
    const alone = ['--network', 'host', '--cgroups', 'no-conmon', '--pids-limit', '-1'];
    const command = [
      'podman',
      'run',
      '-d',
      '--name',
      CONTAINER,
      ...alone,
      '--security-opt',
      'seccomp=unconfined',
      IMAGE,
    ];
    await scene.home.run([...command, ...scene.ballast(what, address)], this.with());
    await listening(scene.home);
    this.asking = await scene.ask(what, address);
    return this.asking;
  }

  async dump(home: LabNode): Promise<void> {
    const exported = ['--tcp-established', '--compress', 'none', '--export', join(IMAGES, 'container.tar')];
    await home.run(['podman', 'container', 'checkpoint', ...exported, CONTAINER], this.with());
  }

  async restore(host: LabNode): Promise<void> {
    const imported = ['--tcp-established', '--import', join(IMAGES, 'container.tar')];
    await host.run(['podman', 'container', 'restore', ...imported], this.with());
  }

  async end({ home, host }: Scene): Promise<void> {
    await this.asking?.close();
    for (const node of [home, host]) await node.run(['podman', 'rm', '--force', '--ignore', CONTAINER], this.with());
  }

  /** The program and its libraries, and nothing else; the host gets the very same image, which a restore asks for. */
  private async makeImage({ home, host, program }: Scene): Promise<void> {
    const libraries = `ldd ${program} | grep -o '/[^ ]*'`;
    const copy = `mkdir -p ${FILES}/proc ${FILES}/sys ${FILES}/dev ${FILES}/run ${FILES}/etc && for file in ${program} $(${libraries}); do install -D "$file" "${FILES}$file" || exit; done`;
    const save = `tar -C ${FILES} -c . | podman import - ${IMAGE} && podman save --output ${SAVED} ${IMAGE}`;
    await home.run(['sh', '-c', `${copy} && ${save}`], this.with());
    await run('cp', [home.path(SAVED), host.path(SAVED)]);
    await host.run(['podman', 'load', '--input', SAVED], this.with());
  }

  private with(): { env: NodeJS.ProcessEnv; timeoutMs: number } {
    return { env: this.env, timeoutMs: LIMIT_MS };
  }
}
