import { isUtf8 } from 'node:buffer'
import { BIT_STRING, DerError, derItems, INTEGER, OCTET_STRING, readDer, SEQUENCE } from './der.ts'
import { cutOff, type KeyFormat, malformed, STORE_AGAIN, typeUnsupported } from './key-errors.ts'
import { isOpenSsh, isOpenSshEncrypted } from './openssh-key.ts'
import type { PemKey } from './pem-key.ts'
import { isPutty, isPuttyEncrypted } from './putty-key.ts'

/** A private key's bytes, found in what was stored. */
export interface FoundKey {
  readonly format: KeyFormat
  /** Of a PuTTY key its text, in UTF-8. */
  readonly bytes: Buffer
  /** Whether a passphrase is needed. */
  readonly encrypted: boolean
  readonly pem?: NonNullable<PemKey['pem']>
}

/** An RSA key of 16384 bits, in base64 three times, is 30 KiB. */
const MAX_LENGTH = 64 * 1024
/** People wrap twice by accident (a tool that encodes, fed by hand with base64), never more. */
const MAX_LAYERS = 3
const BASE64 = /^[A-Za-z0-9+/_-]+={0,2}$/
/** They come from chats and web pages, and nobody sees them. The first is the byte order mark. */
const INVISIBLE = /[\uFEFF\u200B-\u200D\u2060]/g
const BEGIN_PUTTY = /PuTTY-User-Key-File-\d{1,3}:[^\n]{1,80}\n[^\n]/

/** In a PuTTY key that has its lines, `\n` is part of the comment (DOMAIN\nancy), and the checksum covers it. */
const withoutLiterals = (text: string): string =>
  BEGIN_PUTTY.test(text)
    ? text
    : text
        .replaceAll(/\\{1,4}r/g, '')
        .replaceAll(/\\{1,4}n/g, '\n')
        .replaceAll('\\/', '/')

const tidy = (text: string): string =>
  withoutLiterals(text.replaceAll(INVISIBLE, '').replaceAll(/\r\n?/g, '\n'))
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .join('\n')

const holds = (what: string, convert = STORE_AGAIN): Error => malformed(`the secret holds ${what}`, convert)

/** What people store instead of a private key, each with the command that helps. */
const OTHER_TEXTS: readonly (readonly [RegExp, string, string?])[] = [
  [
    /BEGIN SSH2 ENCRYPTED PRIVATE KEY/,
    'a private key in the format of ssh.com (BEGIN SSH2 ENCRYPTED PRIVATE KEY)',
    'Convert it: puttygen key -O private-openssh -o converted, then store the output of: base64 converted',
  ],
  [/BEGIN PGP PRIVATE KEY BLOCK/, 'a PGP key, not an SSH key', 'Make an SSH key: ssh-keygen -t ed25519 -f key'],
  [
    /^\{[^{}]{0,200}"kty"/,
    'a JSON Web Key',
    'Store the key as PEM; make a new one if there is no other form of it: ssh-keygen -t ed25519 -f key',
  ],
]
const PUBLIC_KEY = /^(?:ssh-|ecdsa-|sk-)\S{1,60} AAAA|-BEGIN (?:RSA )?PUBLIC KEY-|-- BEGIN SSH2 PUBLIC KEY --/m
const PUBLIC = 'a public key, not a private key'
const CERTIFICATE = /-cert-v01@openssh\.com |-BEGIN CERTIFICATE-/
const A_CERTIFICATE = 'a certificate, not a private key'

const refuseOtherTexts = (text: string): void => {
  for (const [pattern, what, convert] of OTHER_TEXTS) if (pattern.test(text)) throw holds(what, convert)
  if (text.includes('PRIVATE KEY') || isPutty(text)) return
  if (CERTIFICATE.test(text)) throw holds(A_CERTIFICATE)
  if (PUBLIC_KEY.test(text)) throw holds(PUBLIC)
}

const tagsOf = (der: Buffer): number[] => {
  const { tag, content } = readDer(der)
  return tag === SEQUENCE ? derItems(content).map((item) => item.tag) : []
}

const startsWith = (tags: readonly number[], ...expected: readonly number[]): boolean =>
  expected.every((tag, index) => tags[index] === tag)

/** Keys in DER are told apart by what their fields are, so that neither BEGIN lines nor their words are needed. */
const formatOfTags = (tags: readonly number[]): KeyFormat | null => {
  if (startsWith(tags, INTEGER, SEQUENCE, OCTET_STRING)) return 'pkcs8'
  if (startsWith(tags, INTEGER, OCTET_STRING)) return 'sec1'
  if (startsWith(tags, SEQUENCE, OCTET_STRING) && tags.length === 2) return 'pkcs8-encrypted'
  return tags.length >= 9 && tags.slice(0, 9).every((tag) => tag === INTEGER) ? 'pkcs1' : null
}

const refuseOtherTags = (tags: readonly number[]): void => {
  if (startsWith(tags, SEQUENCE, SEQUENCE, BIT_STRING)) throw holds(A_CERTIFICATE)
  if (startsWith(tags, SEQUENCE, BIT_STRING)) throw holds(PUBLIC)
  if (tags.every((tag) => tag === INTEGER) && tags.length === 2) throw holds(PUBLIC)
  if (tags.every((tag) => tag === INTEGER) && tags.length === 6) throw typeUnsupported('DSA')
  if (startsWith(tags, INTEGER, SEQUENCE, SEQUENCE)) {
    throw holds('a PKCS#12 file (.p12, .pfx)', 'Convert it: openssl pkcs12 -in key.p12 -nocerts -nodes -out key.pem')
  }
}

const isDer = (bytes: Buffer): boolean => bytes[0] === SEQUENCE && bytes.length > 16

/** Binary that is none of ours is no error yet: it may be text, or another layer of base64. */
const recognise = (bytes: Buffer): FoundKey | null => {
  if (isOpenSsh(bytes)) return { format: 'openssh', bytes, encrypted: isOpenSshEncrypted(bytes) }
  if (!isDer(bytes)) return null
  const tags = tagsOf(bytes)
  refuseOtherTags(tags)
  const format = formatOfTags(tags)
  const der = bytes.subarray(0, bytes.length - readDer(bytes).rest.length)
  return format && { format, bytes: der, encrypted: format === 'pkcs8-encrypted' }
}

const recogniseOrNull = (bytes: Buffer): FoundKey | null => {
  try {
    return recognise(bytes)
  } catch (error) {
    if (error instanceof DerError) return null
    throw error
  }
}

/** Dashes as word processors make them count as well. */
const MARKER = /[-\u2010-\u2015]{1,8} ?(BEGIN|END) ([A-Z0-9 ]{0,40}?)PRIVATE KEY ?[-\u2010-\u2015]{1,8}/g

interface Envelope {
  /** What stands before `PRIVATE KEY`. Of the file's own making: not for messages. */
  readonly label: string
  readonly inside: string
  /** Whether both lines are there. */
  readonly whole: boolean
}

/** The first END line and the last BEGIN line before it; either may be missing. */
const findEnvelope = (text: string): Envelope | null => {
  const marks = [...text.matchAll(MARKER)]
  const end = marks.find(([, word]) => word === 'END')
  const begin = marks.findLast((mark) => mark[1] === 'BEGIN' && mark.index < (end?.index ?? text.length))
  if (begin === undefined && end === undefined) return null
  const from = begin === undefined ? 0 : begin.index + begin[0].length
  return {
    label: ((begin ?? end)?.[2] ?? '').trim(),
    inside: text.slice(from, end?.index),
    whole: begin !== undefined && end !== undefined,
  }
}

const PROC_TYPE = /Proc-Type:\s{0,4}4,ENCRYPTED\s{0,9}/
/** The second half by its length: where all white space is lost the body follows without a gap. */
const DEK_INFO =
  /DEK-Info:\s{0,4}((?:DES|BF|CAST|IDEA|RC\d)[A-Z0-9-]{0,17},[0-9A-Fa-f]{16}|[A-Z0-9-]{1,20},[0-9A-Fa-f]{32})/

/** Only what says RSA, EC or DSA can be encrypted in this old way. */
const pemOf = ({ label, inside }: Envelope): FoundKey['pem'] => {
  const [, dekInfo] = DEK_INFO.exec(inside) ?? []
  if (!PROC_TYPE.test(inside) || dekInfo === undefined) return undefined
  return { algorithm: /^(?:RSA|EC|DSA)$/.test(label) ? label : 'RSA', dekInfo }
}

const NAMES: ReadonlyMap<string, string> = new Map([
  ['OPENSSH', 'OpenSSH'],
  ['RSA', 'PKCS#1, BEGIN RSA PRIVATE KEY'],
  ['EC', 'SEC1, BEGIN EC PRIVATE KEY'],
  ['DSA', 'BEGIN DSA PRIVATE KEY'],
  ['ENCRYPTED', 'PKCS#8, BEGIN ENCRYPTED PRIVATE KEY'],
  ['', 'PKCS#8, BEGIN PRIVATE KEY'],
])
const nameOf = (label: string): string => NAMES.get(label) ?? 'of a format that is not known'

const bodyDamaged = (label: string): Error =>
  malformed(`the private key (${nameOf(label)}) cannot be read: what follows its BEGIN line is damaged`, STORE_AGAIN)

const isCutOff = (error: unknown): boolean => error instanceof DerError && error.cutOff

const recogniseBody = (bytes: Buffer, { label, whole }: Envelope): FoundKey => {
  try {
    const found = recognise(bytes)
    if (found !== null) return found
  } catch (error) {
    if (!(error instanceof DerError)) throw error
    if (!whole && isCutOff(error)) throw cutOff(nameOf(label))
  }
  throw bodyDamaged(label)
}

const openEnvelope = (envelope: Envelope): FoundKey => {
  const pem = pemOf(envelope)
  const body = envelope.inside
    .replace(PROC_TYPE, '')
    .replace(DEK_INFO, '')
    .replaceAll(/[\s"'\\]/g, '')
  if (!BASE64.test(body)) throw envelope.whole ? bodyDamaged(envelope.label) : cutOff(nameOf(envelope.label))
  const bytes = Buffer.from(body, 'base64')
  if (pem === undefined) return recogniseBody(bytes, envelope)
  if (!envelope.whole) throw cutOff('PEM with Proc-Type: 4,ENCRYPTED')
  return { format: 'pem-encrypted', bytes, encrypted: true, pem }
}

const readText = (text: string): FoundKey | null => {
  refuseOtherTexts(text)
  if (isPutty(text)) {
    return { format: 'putty', bytes: Buffer.from(text, 'utf8'), encrypted: isPuttyEncrypted(text) }
  }
  const envelope = findEnvelope(text)
  return envelope && openEnvelope(envelope)
}

const charactersOf = (bytes: Buffer): string => {
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return 'utf-16be'
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || bytes[1] === 0) return 'utf-16le'
  return isUtf8(bytes) ? 'utf-8' : 'latin1'
}

const decodeLayer = (text: string): Buffer | null => {
  const joined = text.replaceAll(/[\s"'\\]/g, '')
  return BASE64.test(joined) ? Buffer.from(joined, 'base64') : null
}

const peel = (text: string, layers: number): FoundKey | null => {
  const tidied = tidy(text)
  const found = readText(tidied)
  if (found !== null || layers === 0) return found
  const bytes = decodeLayer(tidied)
  if (bytes === null) return null
  return recogniseOrNull(bytes) ?? peel(new TextDecoder(charactersOf(bytes)).decode(bytes), layers - 1)
}

/**
 * Finds the private key in what was stored. Byte order marks, carriage returns, indentation, quotes, literal `\n` and up
 * to three layers of base64 are taken off; lines may be lost, and so may BEGIN and END. Takes time in proportion to the
 * text, whatever it is, and derives no key. Fails with `secret_malformed`.
 */
export const findKey = (stored: string): FoundKey => {
  if (stored.length > MAX_LENGTH) throw malformed('the secret is larger than any private key', STORE_AGAIN)
  const found = peel(stored, MAX_LAYERS)
  if (found !== null) return found
  throw malformed('the secret holds no private key: no BEGIN line was found in it', STORE_AGAIN)
}
