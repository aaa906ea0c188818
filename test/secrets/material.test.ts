import { describe, expect, test } from 'vitest'
import type { JobError } from '../../src/host/errors.ts'
import { disposeMaterial, materialOf, type SecretMaterial } from '../../src/secrets/material.ts'

const MARK = 'bWFya2VkLXNlY3JldA'

const failure = (content: string | Uint8Array): JobError => {
  try {
    materialOf(content, '1')
  } catch (error) {
    return error as JobError
  }
  throw new Error('was accepted')
}

const reveal = ({ privateKey, passphrase, next }: SecretMaterial) => ({
  key: privateKey.reveal(),
  passphrase: passphrase?.reveal(),
  next: next && { key: next.privateKey.reveal(), passphrase: next.passphrase?.reveal() },
})

describe('what a secret holds', () => {
  test('is the key, and what else belongs to it', () => {
    const text = JSON.stringify({ base64_private_key: 'k', passphrase: 'p', base64_private_key_next: 'n', other: 1 })
    const expected = { key: 'k', passphrase: 'p', next: { key: 'n', passphrase: 'p' } }
    expect(reveal(materialOf(text, '1'))).toEqual(expected)
    expect(reveal(materialOf(Buffer.from(text), '1'))).toEqual(expected)
  })

  test('may have another passphrase for the next key, and empty members of forms that nobody filled in', () => {
    const both = { base64_private_key: 'k', base64_private_key_next: 'n', passphrase_next: 'q' }
    expect(reveal(materialOf(JSON.stringify(both), '1')).next).toEqual({ key: 'n', passphrase: 'q' })
    const empty = { base64_private_key: 'k', passphrase: '', base64_private_key_next: '' }
    expect(reveal(materialOf(JSON.stringify(empty), '1'))).toEqual({ key: 'k', passphrase: undefined, next: undefined })
  })

  test('is gone whole when it is disposed of', () => {
    const material = materialOf(
      JSON.stringify({ base64_private_key: 'k', passphrase: 'p', base64_private_key_next: 'n' }),
      '1',
    )
    disposeMaterial(material)
    const { privateKey, passphrase, next } = material
    for (const secret of [privateKey, passphrase, next?.privateKey, next?.passphrase]) {
      expect(() => secret?.reveal()).toThrow('disposed')
    }
  })

  test.each([
    ['', 'nothing'],
    [' \n', 'nothing'],
    [`-----BEGIN OPENSSH PRIVATE KEY-----\n${MARK}\n`, 'a private key by itself'],
    [`PuTTY-User-Key-File-3: ssh-ed25519\n${MARK}`, 'a private key by itself'],
    [`ssh-ed25519 ${MARK}`, 'a public key by itself'],
    [`{"base64_private_key": ${MARK}`, 'text that begins like JSON and is none'],
    [`${MARK}\n${MARK}==`, 'one word, perhaps base64 of a key by itself'],
    [`my key: ${MARK}`, 'text that is not JSON'],
    [`["${MARK}"]`, 'a list'],
    [`"${MARK}"`, 'a string'],
    ['1', 'a number'],
    ['null', 'null'],
    [`{"${MARK}": "x"}`, 'an object without it'],
    [`{"private_key": "${MARK}"}`, 'an object without it, but with private_key'],
    [`{"base64_private_key": ["${MARK}"]}`, 'an object whose base64_private_key is not a string'],
    [`{"base64_private_key": "", "x": "${MARK}"}`, 'an object whose base64_private_key is empty'],
    [
      `{"base64_private_key": "${MARK}", "passphrase": 7}`,
      'an object with a passphrase or next key that is not a string',
    ],
  ])('%j is malformed: found %s, and never what it was', (text, kind) => {
    const error = failure(text)
    expect(error).toMatchObject({ code: 'secret_malformed', message: expect.stringMatching(`found ${kind}$`) })
    expect(error.hint).toContain('base64_private_key')
    expect(`${error.message}${error.hint}${String(error.cause)}${error.stack}`).not.toContain(MARK)
  })

  test('is malformed where it is binary', () => {
    expect(failure(Buffer.from([0xff, 0xfe, 0x00])).message).toMatch(/found binary data$/)
  })
})
