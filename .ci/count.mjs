// count.mjs REPORT: prints "N passed, N failed" of vitest's JSON report. Exit code 1 unless everything ran and passed:
// no test at all and a skipped test are failures too. Only a file that stands beside a server whose image cannot be had
// everywhere may skip all it has; what it would have tested is said each time.
import { readFileSync } from 'node:fs'

const report = JSON.parse(readFileSync(process.argv[2], 'utf8'))

// A file that could not be loaded or set up fails without a test that does; it counts as one.
const broken = report.testResults.filter(
  ({ status, assertionResults }) => status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
).length
const passed = report.numPassedTests
const failed = report.numFailedTests + broken

const OPTIONAL = ['azure-lowkey', 'kubernetes-server', 'vault-server'].map((name) => `/test/secrets/${name}.test.ts`)
const absent = report.testResults.filter(
  ({ name, assertionResults }) =>
    OPTIONAL.some((file) => name.endsWith(file)) && assertionResults.every(({ status }) => status === 'skipped'),
)
const notRun = report.numTotalTests - report.numPassedTests - report.numFailedTests
const skipped = notRun - absent.flatMap(({ assertionResults }) => assertionResults).length

for (const { name } of absent)
  process.stderr.write(`no image here: ${name.slice(name.lastIndexOf('/') + 1)} did not run
`)

if (skipped > 0) process.stderr.write(`tests that did not run: ${skipped}\n`)
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exitCode = report.success && passed > 0 && failed === 0 && skipped === 0 ? 0 : 1
