/** What the reports of vitest (--reporter=json) in a folder say together: how often each test has failed. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

const folder = process.argv[2];
const files = new Map();

for (const report of readdirSync(folder))
  for (const { name, status, assertionResults } of JSON.parse(readFileSync(path.join(folder, report), 'utf8'))
    .testResults) {
    const file = files.get(name) ?? { runs: 0, failedRuns: 0, failures: new Map() };
    files.set(name, file);
    file.runs++;
    if (status !== 'failed') continue;
    file.failedRuns++;
    const failed = assertionResults
      .filter((test) => test.status === 'failed')
      .map(({ fullName }) => fullName);
    // A file of which no test has failed has failed before its tests, or after them.
    for (const test of failed.length > 0 ? failed : ['(outside of its tests)'])
      file.failures.set(test, (file.failures.get(test) ?? 0) + 1);
  }

for (const [name, { runs, failedRuns, failures }] of [...files].sort()) {
  console.log(`${failedRuns} of ${runs} runs failed: ${path.relative('', name)}`);
  for (const [test, count] of failures) console.log(`    ${count} × ${test}`);
}
process.exitCode = [...files.values()].some(({ failedRuns }) => failedRuns > 0) ? 1 : 0;
