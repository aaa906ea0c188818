// count.mjs REPORT: prints "N passed, N failed" of vitest's JSON report. Exit code 1 unless everything ran and passed:
// no test at all and a skipped test are failures too.
import { readFileSync } from 'node:fs'

const report = JSON.parse(readFileSync(process.argv[2], 'utf8'))

// A file that could not be loaded or set up fails without a test that does; it counts as one.
const broken = report.testResults.filter(
  ({ status, assertionResults }) => status === 'failed' && !assertionResults.some((test) => test.status === 'failed'),
).length
const passed = report.numPassedTests
const failed = report.numFailedTests + broken
const skipped = report.numTotalTests - report.numPassedTests - report.numFailedTests

if (skipped > 0) process.stderr.write(`tests that did not run: ${skipped}\n`)
process.stdout.write(`${passed} passed, ${failed} failed\n`)
process.exitCode = report.success && passed > 0 && failed === 0 && skipped === 0 ? 0 : 1
