import { existsSync, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { readsEveryLimit } from '../../cli/process/task-verdicts.js';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';

const UNPACK_MS = 300_000;
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Where the servers of the tests are: the machine's own, or unpacked by the set-up into a folder of this checkout. */
export class AppPrograms {
  private constructor(private readonly prefix: string) {}

  /** Unpacks what is not there yet. @throws {ExternalError} `COMMAND_FAILED` with what the set-up said */
  static async get(): Promise<AppPrograms> {
    const { stdout } = await run('bash', [projectFile('config/setup/app-programs.sh')], { timeoutMs: UNPACK_MS });
    return new AppPrograms(stdout.trim());
  }

  /** The absolute path of a program, which may be given as one. */
  program(name: string): string {
    if (name.startsWith('/')) return name;
    const own = ['usr/sbin', 'usr/bin'].map((folder) => join(this.prefix, folder));
    const path = [...SYSTEM_PATH.split(':'), ...(process.env.PATH ?? '').split(delimiter), ...own]
      .map((folder) => join(folder, name))
      .find((candidate) => existsSync(candidate));
    if (path === undefined) throw new Error(`there is no ${name}`);
    return path;
  }

  /** A file of a package, unpacked or of the machine. @param path below `/` */
  file(path: string): string {
    return [join(this.prefix, path), join('/', path)].find((candidate) => existsSync(candidate)) ?? path;
  }

  /** Where unpacked programs find their libraries. */
  get env(): NodeJS.ProcessEnv {
    const libraries = join(this.prefix, 'usr/lib');
    const architecture = readdirSync(libraries).find((name) => name.includes('-linux-')) ?? '';
    return { LD_LIBRARY_PATH: join(libraries, architecture) };
  }

  /**
   * For servers that insist on leaving root. Where root lacks CAP_SYS_RESOURCE, CRIU cannot dump what runs as another user (the verdict
   * LIMITS_UNREADABLE): there uid_wrapper lets the server believe that it has left.
   */
  get leavingRoot(): NodeJS.ProcessEnv {
    if (readsEveryLimit()) return this.env;
    return { ...this.env, LD_PRELOAD: 'libuid_wrapper.so', UID_WRAPPER: '1', UID_WRAPPER_ROOT: '1' };
  }
}
