import { afterAll, beforeAll, expect, test } from 'vitest'
import { mustRun } from './command.ts'
import { startHost, type TestHost } from './hosts.ts'
import { keygen, sshLogin, sshSession } from './openssh.ts'

let host: TestHost
let startMs: number
beforeAll(async () => {
  const begun = performance.now()
  host = await startHost({ kind: 'systemd' })
  startMs = performance.now() - begun
})
afterAll(() => host?.stop())

test('boots systemd, with every unit well and people let in', async ({ annotate }) => {
  expect(startMs).toBeLessThan(5000)
  expect((await host.exec('cat /proc/1/comm; systemctl is-system-running')).stdout).toBe('systemd\nrunning\n')
  const units = await host.exec('systemctl is-active ssh cron atd dbus systemd-logind')
  expect(units.stdout).toBe('active\n'.repeat(5))
  await annotate(`booted in ${Math.round(startMs)} ms`)
})

test('is not privileged', async () => {
  const format = '{{.HostConfig.Privileged}} {{.HostConfig.Init}} {{json .HostConfig.CapAdd}}'
  expect((await mustRun('docker', ['inspect', '--format', format, host.name])).trim()).toBe('false false ["SYS_ADMIN"]')
})

test('gives a login a session of logind’s, in the user’s slice, with a manager', async () => {
  const key = await keygen()
  await host.exec('cat >>/home/apono/.ssh/authorized_keys', { input: `${key.publicKey}\n` })
  const session = sshSession({ host, user: 'apono', privateKeyPath: key.privateKeyPath })
  await session.ready
  const uid = (await host.passwd('apono'))?.uid
  const sessions = await host.exec('loginctl list-sessions --no-legend')
  expect(sessions.stdout).toMatch(new RegExp(`\\b${uid} apono\\b`))
  expect((await host.exec(`systemctl is-active user-${uid}.slice user@${uid}.service`)).stdout).toBe('active\nactive\n')
  session.kill()
  await session.closed
})

test('runs root commands for the connector, and keeps sshd’s log', async () => {
  const { stdout, stderr } = await sshLogin({
    host,
    user: 'apono',
    privateKeyPath: host.connectorKeyPath,
    command: 'sudo -n id -u',
  })
  expect({ stdout, stderr }).toEqual({ stdout: '0\n', stderr: '' })
  await expect.poll(() => host.log()).toContain('Accepted publickey for apono')
})
