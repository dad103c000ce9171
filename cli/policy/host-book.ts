import type { NodeEntry } from '../config/schema.js';
import type { HostFacts, HostState } from './facts.js';

/** Asks a node what it is like. @param paths in file systems @throws when it does not answer in time */
export type AskHost = (paths: readonly string[]) => Promise<HostFacts>;

/** What the nodes have said of themselves last, and when. */
export class HostBook {
  private readonly said = new Map<string, HostState>();
  private readonly asked = new Set<string>();

  /**
   * @param nodes in the order of the configuration, this one included
   * @param known what the configuration says of them
   */
  constructor(
    private readonly nodes: ReadonlyMap<string, AskHost>,
    private readonly known: readonly Pick<NodeEntry, 'name' | 'labels' | 'near'>[] = [],
  ) {}

  /** Asks every node that is not being asked already; returns when all have answered or failed. */
  async refresh(paths: readonly string[]): Promise<void> {
    await Promise.all([...this.nodes].map(([name, ask]) => this.ask(name, ask, paths)));
  }

  /** In the order of the configuration; a node that was never asked to the end is left out. */
  states(): Record<string, HostState> {
    const entries = [...this.nodes.keys()].map((name) => [name, this.stateOf(name)] as const);
    return Object.fromEntries(entries.flatMap(([name, state]) => (state === undefined ? [] : [[name, state]])));
  }

  private stateOf(name: string): HostState | undefined {
    const state = this.said.get(name);
    const { labels, near } = this.known.find((node) => node.name === name) ?? {};
    if (state === undefined) return undefined;
    return { ...state, ...(labels === undefined ? {} : { labels }), ...(near === undefined ? {} : { near }) };
  }

  private async ask(name: string, ask: AskHost, paths: readonly string[]): Promise<void> {
    if (this.asked.has(name)) return;
    this.asked.add(name);
    try {
      const facts = await ask(paths);
      this.said.set(name, { reachable: true, readAt: Date.now(), facts });
    } catch {
      this.said.set(name, { ...this.said.get(name), reachable: false });
    } finally {
      this.asked.delete(name);
    }
  }
}
