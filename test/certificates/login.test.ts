import { writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { mintCertificate } from '../../src/certificates/mint.ts'
import { mustRun } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { sshLogin } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'

// A real sshd decides: trust lines are installed by hand here, so that nothing but the certificate is tested.

let host: TestHost
beforeAll(async () => {
  host = await startHost({ setup: 'useradd -m -p "*" dana && install -d -o dana -g dana -m 700 /home/dana/.ssh' })
}, 120_000)
afterAll(() => host?.stop())

const trust = async (line: string): Promise<void> => {
  const install = 'umask 077; cat > /home/dana/.ssh/authorized_keys; chown dana:dana /home/dana/.ssh/authorized_keys'
  const { code, stderr } = await host.exec(install, { input: `${line}\n` })
  expect(stderr).toBe('')
  expect(code).toBe(0)
}

let made = 0
const keyOf = async (type: string, bits: string): Promise<string> => {
  const file = `${scratchDirectory()}/person_${++made}`
  await mustRun('ssh-keygen', ['-q', '-t', type, '-b', bits, '-N', '', '-C', '', '-f', file])
  return file
}

const certified = async (type: string, bits: string, grantId: string, lastsMs = 3_600_000) => {
  const privateKeyPath = await keyOf(type, bits)
  const publicKey = (await mustRun('ssh-keygen', ['-y', '-f', privateKeyPath])).trim()
  const now = Date.now()
  const minted = mintCertificate({ grantId, publicKey, now, notBefore: now, notAfter: now + lastsMs })
  const certificatePath = `${privateKeyPath}-cert.pub`
  writeFileSync(certificatePath, `${minted.certificate}\n`)
  return { minted, login: { host, user: 'dana', privateKeyPath, certificatePath, command: 'id -un' } }
}

describe('sshd and a minted certificate', () => {
  test.each([
    ['ed25519', '256'],
    ['ecdsa', '256'],
    ['ecdsa', '384'],
    ['ecdsa', '521'],
    ['rsa', '3072'],
  ])('%s %s logs in under its own authority', async (type, bits) => {
    const { minted, login } = await certified(type, bits, 'grt_1')
    await trust(`cert-authority,principals="grt_1" ${minted.authority}`)
    expect(await sshLogin(login)).toMatchObject({ code: 0, stdout: 'dana\n' })
  })

  test('it has a terminal and nothing else of the extensions', async () => {
    const { minted, login } = await certified('ed25519', '256', 'grt_1')
    await trust(`cert-authority,principals="grt_1" ${minted.authority}`)
    const terminal = await sshLogin({ ...login, command: 'tty', settings: ['RequestTTY=force'] })
    expect(terminal.stdout).toContain('/dev/pts/')
    const forward = await sshLogin({ ...login, settings: ['RemoteForward=0 127.0.0.1:22', 'ExitOnForwardFailure=yes'] })
    expect(forward.stderr).toContain('remote port forwarding failed')
  })

  test('the principal of another grant is refused', async () => {
    const { minted, login } = await certified('ed25519', '256', 'grt_1')
    await trust(`cert-authority,principals="grt_2" ${minted.authority}`)
    expect((await sshLogin(login)).stderr).toContain('Permission denied')
  })

  test('the authority of another grant is refused', async () => {
    const { login } = await certified('ed25519', '256', 'grt_1')
    const other = await certified('ed25519', '256', 'grt_1')
    await trust(`cert-authority,principals="grt_1" ${other.minted.authority}`)
    expect((await sshLogin(login)).stderr).toContain('Permission denied')
  })

  test('after its end it is refused', async () => {
    const { minted, login } = await certified('ed25519', '256', 'grt_1', 1500)
    await trust(`cert-authority,principals="grt_1" ${minted.authority}`)
    await expect
      .poll(async () => (await sshLogin(login)).stderr, { timeout: 8000, interval: 700 })
      .toContain('Permission denied')
    expect(await host.log()).toContain('Certificate invalid: expired')
  })
})
