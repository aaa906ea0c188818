import { randomBytes } from 'node:crypto'
import { writeHeapSnapshot } from 'node:v8'
import { readConfig } from '../../src/connector/config.ts'
import { startConnector } from '../../src/connector/connector.ts'
import { hostProgram } from '../../src/host/host-program.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'

// A connector in a process of its own: hygiene-child.ts WHILE-IT-RUNS AFTER-IT-ENDED. SIGUSR2 writes the first heap
// snapshot and says so; SIGTERM stops the connector, writes the second, and ends the process. Needs --expose-gc.

const [whileRunning = '', afterwards = ''] = process.argv.slice(2)
const collect = globalThis.gc
if (collect === undefined) throw new Error('start it with --expose-gc')

/** What one collection frees may be what kept something else. */
const snapshot = async (file: string): Promise<void> => {
  for (let n = 0; n < 5; n++) {
    collect()
    await new Promise((resolve) => setImmediate(resolve))
  }
  writeHeapSnapshot(file)
  process.stdout.write(`${JSON.stringify({ snapshot: file })}\n`)
}

const started = async () => {
  const parsed = readConfig(process.env)
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'))
  const log = createLogger('debug')
  const deps = { clock: systemClock, log, random: randomBytes, hostProgram, version: '0.0.0-test' }
  return await startConnector(parsed.config, { ...deps, environment: process.env, allowLoopback: true })
}

const connector = await started()
process.on('SIGUSR2', () => void snapshot(whileRunning))
process.on('SIGTERM', async () => {
  await connector.stop()
  await snapshot(afterwards)
  process.exit(0)
})
