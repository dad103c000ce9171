import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { pathToFileURL } from 'node:url';
import { run } from '../../cli/system/command.js';
import { projectFile } from '../../cli/system/project.js';

const INSTALL_MS = 500_000;
const ANSWER_MS = 60_000;

interface Message {
  readonly id?: number;
  readonly sessionId?: string;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  readonly result?: Record<string, unknown>;
  readonly error?: { readonly message: string };
}

export interface Screen {
  readonly width: number;
  readonly height: number;
  readonly dark?: boolean;
}

/** What a page has asked for, itself aside, and what its browser had to complain about. */
export interface Heard {
  readonly requests: string[];
  readonly complaints: string[];
}

/**
 * A Chromium without a window, told what to do over a pipe (the DevTools protocol, chromedevtools.github.io/devtools-protocol:
 * messages of JSON, each ended by a zero byte).
 */
export class Browser {
  private readonly waiting = new Map<number, (message: Message) => void>();
  private readonly listeners = new Set<(message: Message) => void>();
  private text = '';
  private last = 0;

  private constructor(
    private readonly process: ChildProcess,
    private readonly folder: string,
  ) {
    (process.stdio[4] as Readable).setEncoding('utf8').on('data', (piece: string) => {
      const messages = `${this.text}${piece}`.split('\0');
      this.text = messages.pop() ?? '';
      for (const message of messages) this.hear(JSON.parse(message) as Message);
    });
  }

  /** Installs one where the machine has none. */
  static async start(): Promise<Browser> {
    const { stdout } = await run('bash', [projectFile('config/setup/browser.sh')], { timeoutMs: INSTALL_MS });
    const folder = mkdtempSync(join(tmpdir(), 'homeproxy-browser-'));
    const quiet = ['--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
    const here = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', `--user-data-dir=${folder}`];
    const how = ['--headless', '--remote-debugging-pipe', '--hide-scrollbars'];
    const stdio = ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] as const;
    return new Browser(spawn(stdout.trim(), [...how, ...quiet, ...here], { stdio: [...stdio] }), folder);
  }

  /** Shows a file as it would look on a screen. */
  async open(file: string, { width, height, dark = false }: Screen): Promise<Page> {
    const { targetId } = await this.ask('Target.createTarget', { url: 'about:blank' });
    const { sessionId } = await this.ask('Target.attachToTarget', { targetId, flatten: true });
    const session = String(sessionId);
    const address = pathToFileURL(file).href;
    const heard: Heard = { requests: [], complaints: [] };
    const loaded = new Set<unknown>();
    let onLoad = (): void => undefined;
    this.listeners.add(({ sessionId: of, method, params }) => {
      if (of !== session) return;
      if (method === 'Page.lifecycleEvent' && params?.name === 'load') {
        loaded.add(params.loaderId);
        onLoad();
      }
      if (method === 'Network.requestWillBeSent') {
        const url = (params as { request: { url: string } }).request.url;
        if (url !== address) heard.requests.push(url);
      }
      if (method === 'Log.entryAdded') heard.complaints.push((params as { entry: { text: string } }).entry.text);
      if (method === 'Runtime.exceptionThrown') heard.complaints.push(JSON.stringify(params?.exceptionDetails));
    });
    for (const domain of ['Page', 'Network', 'Log', 'Runtime']) await this.ask(`${domain}.enable`, {}, session);
    const metrics = { width, height, deviceScaleFactor: 1, mobile: false };
    await this.ask('Emulation.setDeviceMetricsOverride', metrics, session);
    const features = [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }];
    await this.ask('Emulation.setEmulatedMedia', { features }, session);
    await this.ask('Page.setLifecycleEventsEnabled', { enabled: true }, session);
    const { loaderId } = await this.ask('Page.navigate', { url: address }, session);
    await new Promise<void>((resolve) => {
      onLoad = () => {
        if (loaded.has(loaderId)) resolve(); // the empty page before it was loaded too
      };
      onLoad();
    });
    return new Page((method, params) => this.ask(method, params, session), heard);
  }

  async close(): Promise<void> {
    const ended = new Promise((resolve) => this.process.once('close', resolve));
    await this.ask('Browser.close', {}).catch(() => this.process.kill('SIGKILL'));
    await ended;
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 20 });
  }

  private async ask(method: string, params: object, sessionId?: string): Promise<Record<string, unknown>> {
    const id = ++this.last;
    const answer = new Promise<Message>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the browser did not answer ${method}`)), ANSWER_MS);
      this.waiting.set(id, (message) => {
        clearTimeout(timer);
        resolve(message);
      });
    });
    const pipe = this.process.stdio[3] as Writable;
    pipe.write(`${JSON.stringify({ id, method, params, ...(sessionId === undefined ? {} : { sessionId }) })}\0`);
    const { result, error } = await answer;
    if (error !== undefined) throw new Error(`${method}: ${error.message}`);
    return result ?? {};
  }

  private hear(message: Message): void {
    if (message.id === undefined) for (const listener of this.listeners) listener(message);
    else this.waiting.get(message.id)?.(message);
  }
}

/** A page that is shown. */
export class Page {
  constructor(
    private readonly ask: (method: string, params: object) => Promise<Record<string, unknown>>,
    readonly heard: Heard,
  ) {}

  /** The value of an expression in the page. */
  async evaluate<Value>(expression: string): Promise<Value> {
    const { result, exceptionDetails } = await this.ask('Runtime.evaluate', { expression, returnByValue: true });
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: Value }).value;
  }

  /** A picture of the whole page, as PNG. */
  async picture(): Promise<Buffer> {
    const { data } = await this.ask('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true });
    return Buffer.from(String(data), 'base64');
  }
}
