import type { LabNode } from '../../cli/lab/lab-node.js';
import { projectFile } from '../../cli/system/project.js';

export interface HttpAnswer {
  /** 599: there was none, and the body says why. */
  readonly status: number;
  readonly body: string;
}

/** Fetches URLs from a node, one after the other. */
export async function httpGet(node: LabNode, ...urls: readonly string[]): Promise<HttpAnswer[]> {
  const program = projectFile('dist/test/lab/http-get-main.js');
  const { stdout } = await node.run([process.execPath, program, ...urls]);
  return JSON.parse(stdout) as HttpAnswer[];
}
