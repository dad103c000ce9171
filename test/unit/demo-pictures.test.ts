import { spawnSync } from 'node:child_process';
import * as assert from 'uvu/assert';
import type { Picture, PicturedMove } from '../../cli/demo/picture.js';
import { SampleRecorder } from '../../cli/demo/samples.js';
import { svgTimeline } from '../../cli/demo/svg.js';
import { PLAIN, terminalTimeline } from '../../cli/demo/timeline.js';
import { suite } from '../suite.js';

const test = suite('demo: pictures');

const START = 1_700_000_000_000;

function move(from: string, to: string, frozenAt: number, freezeMs: number): PicturedMove {
  const frozen = START + frozenAt;
  const resumedAt = frozen + freezeMs;
  return {
    from,
    to,
    startedAt: frozen - 100,
    endedAt: resumedAt + 100,
    frozenAt: frozen,
    resumedAt,
    freezeMs,
    stallMs: freezeMs + 2,
  };
}

/** A reply each 5 ms for 10 s; nobody answers while the process is frozen. */
function picture(moves: readonly PicturedMove[]): Picture {
  const recorder = new SampleRecorder();
  for (let sentAt = START; sentAt < START + 10_000; sentAt += 5) {
    const move = moves.find((candidate) => candidate.frozenAt <= sentAt && sentAt < candidate.resumedAt);
    const repliedAt = move === undefined ? sentAt + 0.5 : move.resumedAt + 2;
    recorder.add(repliedAt, repliedAt - sentAt);
  }
  return { samples: recorder.samples, from: START, to: START + 10_000, moves };
}

const MOVES = [move('home', 'host1', 2000, 83), move('host1', 'host2', 4500, 121), move('host2', 'home', 9500, 74)];
const TEXTS = { title: 'Redis <moves> & "stays"', subtitle: '1 reply' };

/** Parses with expat: fails for anything that is not well-formed XML. Returns what it says of the document. */
function parseXml(document: string): { roots: string[]; texts: string[]; numbers: string[] } {
  const program = `
import json, sys, xml.dom.minidom
document = xml.dom.minidom.parse(sys.stdin.buffer)
every = document.getElementsByTagName("*")
print(json.dumps({
  "roots": [node.tagName for node in document.childNodes if node.nodeType == node.ELEMENT_NODE],
  "texts": [node.firstChild.data for node in every if node.tagName in ("text", "title")],
  "numbers": [value for node in every for name, value in node.attributes.items() if name in ("x", "y", "x1", "x2", "y1", "y2", "d", "width", "height")],
}))`;
  const { status, stdout, stderr } = spawnSync('python3', ['-c', program], { input: document, encoding: 'utf8' });
  assert.is(status, 0, stderr);
  return JSON.parse(stdout);
}

test('the SVG is well-formed and names every migration with its figures', () => {
  const { roots, texts } = parseXml(svgTimeline(picture(MOVES), TEXTS));
  assert.equal(roots, ['svg']);
  const figures = ['freeze 83 ms · stall 85 ms', 'freeze 121 ms · stall 123 ms', 'freeze 74 ms · stall 76 ms'];
  const routes = ['home → host1', 'host1 → host2', 'host2 → home'];
  for (const words of [TEXTS.title, ...routes, ...figures, '100 ms', 'longest latency', 'median latency']) {
    assert.ok(texts.includes(words), words);
  }
});

test('every number in the SVG is one', () => {
  for (const moves of [MOVES, []]) {
    const { numbers } = parseXml(svgTimeline(picture(moves), TEXTS));
    assert.ok(numbers.length > 20);
    for (const number of numbers) assert.not.match(number, /NaN|Infinity|undefined/);
  }
});

test('an SVG of nothing at all is still well-formed', () => {
  const empty: Picture = { samples: new SampleRecorder().samples, from: START, to: START + 1000, moves: [] };
  assert.equal(parseXml(svgTimeline(empty, TEXTS)).roots, ['svg']);
});

test('colours follow the preference of the reader, with light ones for programs that know none', () => {
  const svg = svgTimeline(picture(MOVES), TEXTS);
  assert.match(svg, 'prefers-color-scheme: dark');
  for (const [, property, name] of svg.matchAll(/(fill|stroke): var\(--(\w+)\)/g)) {
    assert.match(svg, new RegExp(`${property}: #[0-9a-f]{6}; ${property}: var\\(--${name}\\)`));
  }
});

/** The columns in which bars begin. */
function barGroups(line: string): number[] {
  const cells = [...line].map((cell) => '▁▂▃▄▅▆▇█'.includes(cell));
  return cells.flatMap((bar, column) => (bar && cells[column - 1] !== true ? [column] : []));
}

test('the terminal timeline keeps to its width and shows each stall above the calm', () => {
  for (const columns of [60, 100, 160]) {
    const lines = terminalTimeline(picture(MOVES), columns);
    for (const line of lines) assert.ok([...line].length <= columns, `${columns}: ${line}`);
    const hundred = lines.find((line) => line.includes('100 ms')) ?? '';
    const frozen = lines.findIndex((line) => line.includes('100 ms'));
    assert.is(barGroups(hundred).length, 3, lines.join('\n'));
    assert.ok(frozen > 0);
  }
});

test('each marker stands below the stall that it names', () => {
  const lines = terminalTimeline(picture(MOVES), 100);
  const stalls = barGroups(lines.find((line) => line.includes('100 ms')) ?? '');
  const markers = lines.flatMap((line) => [...line].flatMap((cell, column) => (cell === '▲' ? [column] : [])));
  assert.equal(
    markers.sort((a, b) => a - b),
    stalls,
  );
  const words = lines.join('\n');
  for (const route of ['home → host1', 'host1 → host2', 'host2 → home']) assert.match(words, route);
  assert.match(words, 'freeze 121 ms, stall 123 ms');
});

test('only columns in which the process stood still are painted so', () => {
  const paint = { ...PLAIN, frozen: (text: string) => text.replaceAll(/[▁▂▃▄▅▆▇█]/g, 'F') };
  const painted = terminalTimeline(picture(MOVES), 100, paint).join('\n');
  assert.match(painted, /F/);
  assert.not.match(terminalTimeline(picture([]), 100, paint).join('\n'), /F/);
});

test.run();
