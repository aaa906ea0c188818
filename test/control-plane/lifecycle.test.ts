import { connect, createServer, type Socket } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { parseControlPlaneConfig } from '../../src/control-plane/config.ts'
import { startControlPlane } from '../../src/control-plane/control-plane.ts'
import { systemClock } from '../../src/observability/clock.ts'
import { createLogger } from '../../src/observability/log.ts'
import { Caller, tempFolder } from './harness.ts'

const startOver = (stateDir: string, listen = '127.0.0.1:0') => {
  const parsed = parseControlPlaneConfig({ APONO_LISTEN: listen, APONO_STATE_DIR: stateDir })
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'))
  return startControlPlane(parsed.config, { clock: systemClock, log: createLogger('error') })
}

test('a first start that fails does not lose the first admin token', async () => {
  const folder = await tempFolder()
  const busy = createServer().listen(0, '127.0.0.1')
  onTestFinished(() => void busy.close())
  await new Promise((resolve) => busy.once('listening', resolve))
  const { port } = busy.address() as { port: number }
  await expect(startOver(folder, `127.0.0.1:${port}`)).rejects.toThrow('EADDRINUSE')

  const unseen = await startOver(folder)
  const lost = unseen.firstAdminToken ?? ''
  expect(lost).toMatch(/^aup_/)
  await unseen.stop()

  const seen = await startOver(folder)
  expect(seen.firstAdminToken).toMatch(/^aup_/)
  expect((await new Caller(seen.url, lost).call('GET', '/api/v1/users/me')).status).toBe(401)
  expect((await new Caller(seen.url, seen.firstAdminToken).call('GET', '/api/v1/users/me')).status).toBe(200)
  await seen.firstAdminTokenShown()
  await seen.stop()

  const later = await startOver(folder)
  expect(later.firstAdminToken).toBeNull()
  expect((await new Caller(later.url, seen.firstAdminToken).call('GET', '/api/v1/users/me')).status).toBe(200)
  await later.stop()
})

test.each([
  ['says nothing', ''],
  ['sends half a header', 'GET /healthz HTTP/1.1\r\nHost: x'],
  ['sends half a body', 'POST /connector/v1/register HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{'],
])(
  'a client that %s does not keep it from stopping',
  async (_what, text) => {
    const controlPlane = await startOver(await tempFolder())
    const socket: Socket = connect(Number(new URL(controlPlane.url).port), '127.0.0.1')
    socket.on('error', () => undefined)
    socket.resume()
    await new Promise((resolve) => socket.once('connect', resolve))
    await new Promise((resolve) => socket.write(text, resolve))
    const closed = new Promise((resolve) => socket.once('close', resolve))
    await controlPlane.stop()
    await closed
  },
  10_000,
)
