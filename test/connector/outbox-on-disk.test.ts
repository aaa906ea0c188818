import { afterEach, expect, onTestFinished, test } from 'vitest'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type ConnectorProcess, startConnectorProcess } from './connector-process.ts'
import { problem, startFakeControlPlane } from './fake-control-plane.ts'
import { job } from './jobs.ts'

// What a connector has done and not yet told, when it is killed: the next one tells it. The job is one that its guard refuses,
// so that nothing but the outcome matters.

let running: ConnectorProcess | null = null
afterEach(() => running?.kill('SIGKILL'))

const setUp = async () => {
  const controlPlane = await startFakeControlPlane()
  onTestFinished(() => controlPlane.close())
  const environment = { APONO_STATE_DIR: scratchDirectory() }
  const start = (): ConnectorProcess => {
    running = startConnectorProcess(controlPlane.url, environment)
    return running
  }
  const told = (id: unknown) =>
    controlPlane.reports().filter((one) => 'jobId' in one && one.jobId === id && one.outcome === 'failed')
  const deaf = (): void => controlPlane.override('report', () => problem(503, 'store_unavailable'))
  return { controlPlane, start, told, deaf }
}

test('an outcome that no control plane has answered for outlives kill -9, and is told once', async () => {
  const { controlPlane, start, told, deaf } = await setUp()
  deaf()
  const first = start()
  const denied = job({ host: '169.254.169.254' })
  controlPlane.enqueue(denied)
  await controlPlane.until(() => told(denied['jobId']).length > 0, 'an attempt to report')
  first.kill('SIGKILL')
  expect(await first.ended).toBeNull()
  const before = told(denied['jobId']).length
  controlPlane.clearOverrides()
  const second = start()
  await controlPlane.until(() => told(denied['jobId']).length > before, 'the outcome, from the next process')
  second.kill('SIGTERM')
  expect(await second.ended).toBe(0)
  const third = start()
  // It asks for jobs, and has nothing left to tell.
  const seen = controlPlane.seen.length
  await controlPlane.until(() => controlPlane.seen.slice(seen).some(({ call }) => call === 'claim'), 'a claim')
  third.kill('SIGTERM')
  expect(await third.ended).toBe(0)
  expect(told(denied['jobId']).length).toBe(before + 1)
})
