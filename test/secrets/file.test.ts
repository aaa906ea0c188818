import { execFileSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, renameSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import type { JobError } from '../../src/host/errors.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { fileStore } from '../../src/secrets/file.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { conforms } from './stores/conformance.ts'

const KEY = 'a2V5LWtleS1rZXk='
let directory: string
let file: string

const put = (name: string, text: string, mode = 0o600): string => {
  const target = path.join(directory, name)
  writeFileSync(target, text, { mode })
  chmodSync(target, mode)
  return target
}

const read = (target: string) =>
  fileStore({ directory }).read({ type: 'file', path: target }, { signal: new AbortController().signal })
const failure = (target: string): Promise<JobError> =>
  read(target).then(
    () => Promise.reject(new Error('was accepted')),
    (error: JobError) => error,
  )

beforeEach(() => {
  directory = scratchDirectory()
  file = put('ssh.json', JSON.stringify({ base64_private_key: KEY, passphrase: 'p', other: 1 }))
})

conforms('file', async () => {
  const folder = scratchDirectory()
  const at = (name: string) => path.join(folder, `${name}.json`)
  const write = (name: string, text: string): SecretReference => {
    writeFileSync(at(name), text, { mode: 0o600 })
    return { type: 'file', path: at(name) }
  }
  return {
    open: () => fileStore({ directory: folder }),
    put: async (name, fields) => write(name, JSON.stringify(fields)),
    putText: async (name, text) => write(name, text),
    missing: { type: 'file', path: at('missing') },
    hostile: [
      { type: 'file', path: '/etc/shadow' },
      { type: 'file', path: `${folder}/../x.json` },
    ],
    forbidden: async () => {
      const reference = write('forbidden', '{}')
      chmodSync(at('forbidden'), 0o644)
      return { reference, how: /^chmod 600 / }
    },
    requests: () => 0,
    stop: async () => undefined,
  }
}, ['faults', 'distrusted'])

describe('the store "file"', () => {
  test('gives the key, the passphrase and a version that follows the content', async () => {
    const first = await read(file)
    expect(first.privateKey.reveal()).toBe(KEY)
    expect(first.passphrase?.reveal()).toBe('p')
    expect((await read(file)).version).toBe(first.version)
    put('new.json', JSON.stringify({ base64_private_key: 'bmV3' }))
    renameSync(path.join(directory, 'new.json'), file)
    expect((await read(file)).version).not.toBe(first.version)
  })

  test.each([0o640, 0o604, 0o620, 0o602, 0o666])('mode %o is refused with the command that mends it', async (mode) => {
    chmodSync(file, mode)
    const error = await failure(file)
    expect(error.code).toBe('secret_access_denied')
    expect(error.hint).toContain(`chmod 600 ${file}`)
  })

  test('outside the directory, or by "..", it is refused without being looked at', async () => {
    for (const target of [
      '/etc/shadow',
      `${directory}/../x.json`,
      `${directory}/a/../ssh.json`,
      'ssh.json',
      directory,
    ]) {
      expect((await failure(target)).code).toBe('secret_access_denied')
    }
  })

  test('a link is refused, as the file and as a folder on the way out', async () => {
    symlinkSync(file, path.join(directory, 'link.json'))
    expect((await failure(path.join(directory, 'link.json'))).message).toContain('symbolic link')
    const outside = scratchDirectory()
    writeFileSync(path.join(outside, 'ssh.json'), '{}', { mode: 0o600 })
    symlinkSync(outside, path.join(directory, 'folder'))
    expect((await failure(path.join(directory, 'folder/ssh.json'))).message).toContain('leads out')
  })

  test('a folder of the directory is fine', async () => {
    mkdirSync(path.join(directory, 'team'))
    expect((await read(put('team/ssh.json', JSON.stringify({ base64_private_key: KEY })))).privateKey.reveal()).toBe(
      KEY,
    )
  })

  test('what is not a regular file is refused, and a FIFO does not block', async () => {
    mkdirSync(path.join(directory, 'folder.json'), { mode: 0o700 })
    expect((await failure(path.join(directory, 'folder.json'))).message).toContain('not a regular file')
    execFileSync('mkfifo', ['-m', '600', path.join(directory, 'fifo.json')])
    expect((await failure(path.join(directory, 'fifo.json'))).message).toContain('not a regular file')
  })

  // Only root can give files away.
  if (process.getuid?.() === 0)
    test('a file of somebody else is refused', async () => {
      chownSync(file, 12345, 0)
      expect(await failure(file)).toMatchObject({
        code: 'secret_access_denied',
        hint: `chown 0 ${file} && chmod 600 ${file}`,
      })
    })

  test('what a shell would take for more than a name is refused, and stands in no command', async () => {
    for (const name of ['x; touch pwned', '$(id)', "it's", 'a b', '`id`', 'x|sh']) {
      const error = await failure(path.join(directory, name))
      expect(error.code).toBe('secret_access_denied')
      expect(`${error.message}${error.hint}`).not.toContain(name)
    }
  })

  test('a name that is too long for the disk is not there', async () => {
    expect((await failure(path.join(directory, 'x'.repeat(300)))).code).toBe('secret_not_found')
  })

  test('a missing one says how to make it', async () => {
    const error = await failure(path.join(directory, 'missing.json'))
    expect(error.code).toBe('secret_not_found')
    expect(error.hint).toContain('base64_private_key')
  })

  const SECRET = 'c3VwZXJzZWNyZXQ'
  test.each([
    ['not JSON', `{"base64_private_key": ${SECRET}`],
    ['a list', `["${SECRET}"]`],
    ['another name', `{"private_key": "${SECRET}"}`],
    ['not a string', `{"base64_private_key": ["${SECRET}"]}`],
    ['empty', `{"base64_private_key": "", "x": "${SECRET}"}`],
  ])('%s is malformed and not quoted', async (_name, text) => {
    const error = await failure(put('bad.json', text))
    expect(error.code).toBe('secret_malformed')
    expect(`${error.message}${error.hint}${String(error.cause)}${error.stack}`).not.toContain(SECRET)
  })

  test('more than 64 KiB is refused unread', async () => {
    truncateSync(file, 65 * 1024)
    expect(await failure(file)).toMatchObject({ code: 'secret_malformed' })
  })
})
