/** Writes the manual page: `node dist/cli/manual/generate-manual.js >config/man/homeproxy.8`. A test says when that is due. */
import { manual } from './manual.js';

process.stdout.write(await manual());
