import { execFile } from 'node:child_process'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { openSqliteStore } from '../../src/control-plane/store/sqlite.ts'
import { CERTIFICATE, dig, HOST_KEY, presentResult, type Scene, stage, tempFolder } from './harness.ts'

const run = promisify(execFile)

const session = async (scene: Scene, publicKey: string): Promise<string> => {
  await scene.grant({ publicKey, server: 'web-2' })
  await scene.fake.work()
  const list = await scene.dana.ok('GET', '/api/user/v1/access-sessions')
  return `/api/user/v1/access-sessions/${dig(list, 'items', 0, 'id')}`
}

/** An `ssh` on the path that writes down what it was given and copies the files that it would read. */
const withFakeSsh = async (cli: string, args: readonly string[]) => {
  const folder = await tempFolder()
  const script = `#!/bin/sh
printf '%s\\n' "$@" >"${folder}/args"
d=$(dirname "$(printf '%s\\n' "$@" | sed -n 's/^CertificateFile=//p')")
ls -ld "$d" >"${folder}/mode"
for f in key key-cert.pub known_hosts; do [ -f "$d/$f" ] && cp -p "$d/$f" "${folder}/$f"; done
exit 7
`
  await writeFile(join(folder, 'ssh'), script)
  await chmod(join(folder, 'ssh'), 0o755)
  const env = { ...process.env, PATH: `${folder}:${process.env['PATH']}`, TMPDIR: folder, HOME: '/home/dana' }
  const code = await run('sh', ['-c', cli, 'ssh', ...args], { env }).then(
    () => 0,
    (error: { code: number }) => error.code,
  )
  const read = (name: string) => readFile(join(folder, name), 'utf8')
  const left = (await run('find', [folder, '-mindepth', '1', '-type', 'd'])).stdout
  return { code, folder, read, left, args: (await read('args')).trimEnd().split('\n') }
}

test('the command writes its files where only the person can read them, calls ssh, and cleans up', async () => {
  const scene = await stage()
  const details = await scene.dana.ok('GET', `${await session(scene, '')}/access-details`)
  const result = await withFakeSsh(String(details['cli']), ['id', '-u'])
  expect(result.code).toBe(7)
  expect(result.left).toBe('')
  expect(await result.read('mode')).toMatch(/^drwx------/)
  expect(result.args).toEqual([
    '-i',
    expect.stringMatching(/\/key$/),
    '-o',
    expect.stringMatching(/^CertificateFile=.*\/key-cert\.pub$/),
    '-o',
    'IdentitiesOnly=yes',
    '-o',
    expect.stringMatching(/^UserKnownHostsFile=.*\/known_hosts$/),
    '-o',
    'GlobalKnownHostsFile=/dev/null',
    '-o',
    'StrictHostKeyChecking=yes',
    '-p',
    '2222',
    'dana@10.0.0.2',
    'id',
    '-u',
  ])
  expect(await result.read('key-cert.pub')).toBe(`${CERTIFICATE}\n`)
  expect(await result.read('known_hosts')).toBe(`[10.0.0.2]:2222 ${HOST_KEY}\n`)
})

test('the private key that we made is one that OpenSSH reads, and it fits the key in the grant', async () => {
  const scene = await stage()
  await scene.grant({ publicKey: '' })
  const job = await scene.fake.claimEnsure()
  await scene.fake.succeed(job, presentResult(job))
  const details = await scene.dana.ok('GET', `/api/user/v1/access-sessions/${job.grant.id}/access-details`)
  const file = join(await tempFolder(), 'key')
  await writeFile(file, String(dig(details, 'parameters', 'private_key')), { mode: 0o600 })
  const { stdout } = await run('ssh-keygen', ['-y', '-f', file])
  expect(stdout.trim()).toBe(job.grant.publicKey)
})

test('a private key of our making is shown once, to its person only, and not kept', async () => {
  const scene = await stage()
  const path = await session(scene, '')
  expect(await scene.dana.ok('GET', path)).toMatchObject({ credentials_status: 'AVAILABLE' })
  const eve = await scene.person('eve@example.com')
  for (const other of [eve, scene.admin]) {
    expect((await other.call('GET', `${path}/access-details`)).status).toBe(403)
  }
  expect((await scene.dana.call('HEAD', `${path}/access-details`)).status).toBe(404)
  const answers = await Promise.all([1, 2, 3].map(() => scene.dana.call('GET', `${path}/access-details`)))
  const shown = answers.filter(({ body }) => dig(body, 'parameters', 'private_key') !== undefined)
  expect(shown).toHaveLength(1)
  expect(shown[0]?.headers.get('cache-control')).toBe('no-store')
  const later = await scene.dana.ok('GET', `${path}/access-details`)
  expect(later).toMatchObject({ cli: null, instructions: expect.stringContaining('shown before') })
  expect(dig(later, 'parameters', 'certificate')).toBe(CERTIFICATE)
  expect(await scene.dana.ok('GET', path)).toMatchObject({ credentials_status: 'VIEWED' })
})

test('neither private keys nor tokens are in the database in clear', async () => {
  const scene = await stage()
  const path = await session(scene, '')
  await scene.controlPlane.stop()
  const files = await Promise.all(
    ['control-plane.db', 'control-plane.db-wal'].map((name) =>
      readFile(join(scene.stateDir, name), 'latin1').catch(() => ''),
    ),
  )
  const stored = files.join('')
  expect(stored).toContain('sealedPrivateKey')
  expect(stored).not.toContain('PRIVATE KEY')
  for (const token of [scene.admin.token, scene.dana.token, scene.fake.caller.token])
    expect(stored).not.toContain(token)
  expect(path).toContain('grt_')
})

test('with a key of their own the command uses that, and can be asked for again and again', async () => {
  const scene = await stage()
  const path = await session(scene, HOST_KEY)
  const details = await scene.dana.ok('GET', `${path}/access-details`)
  expect(await scene.dana.ok('GET', `${path}/access-details`)).toEqual(details)
  expect(dig(details, 'parameters', 'private_key')).toBeUndefined()
  const { args } = await withFakeSsh(String(details['cli']), [])
  expect(args.slice(0, 2)).toEqual(['-i', '/home/dana/.ssh/id_ed25519'])
  expect(args.at(-1)).toBe('dana@10.0.0.2')
})

test('an ended session has no details', async () => {
  const scene = await stage()
  const path = await session(scene, '')
  scene.clock.advance(3_600_000)
  await scene.fake.register()
  await scene.fake.claim()
  expect((await scene.dana.call('GET', `${path}/access-details`)).status).toBe(403)
  expect((await scene.dana.ok('GET', '/api/user/v1/access-sessions'))['items']).toEqual([])
})

test('a private key that nobody looked at is gone with its grant', async () => {
  const scene = await stage()
  const path = await session(scene, '')
  scene.clock.advance(3_600_000)
  await scene.fake.register()
  await scene.fake.claim()
  await scene.controlPlane.stop()
  const store = openSqliteStore(join(scene.stateDir, 'control-plane.db'))
  const grant = await store.read((tx) => tx.grants.get(path.split('/').at(-1) ?? ''))
  await store.close()
  expect(grant).toMatchObject({ state: 'absent', keyOrigin: 'control_plane', sealedPrivateKey: null })
})

test('a certificate that is not one never gets into a command', async () => {
  const scene = await stage()
  await scene.grant()
  const job = await scene.fake.claimEnsure()
  await scene.fake.succeed(
    job,
    presentResult(job, { certificate: "ssh-ed25519-cert-v01@openssh.com AAAA'; reboot; '" }),
  )
  expect(await scene.newestGrant()).toMatchObject({ status: 'Granting', last_failure: { code: 'invalid_result' } })
})
