import { type ErrorFacts, JobError } from './errors.ts'
import type { ExecOutcome } from './link.ts'
import { classifySilence } from './silence.ts'

/** What the program printed between its begin and end lines: every field may repeat. */
export type Fields = ReadonlyMap<string, readonly string[]>

const MAX_TEXT = 256

/** Text that a server chose: printable ASCII, at most 256 bytes, marked where it was cut. */
export const serverText = (text: string): string => {
  const printable = text.replace(/[^\x20-\x7e]/g, '?')
  return printable.length <= MAX_TEXT ? printable : `${printable.slice(0, MAX_TEXT - 3)}...`
}

const ownLines = (stdout: string, nonce: string): string[] =>
  stdout
    .split('\n')
    .filter((line) => line.startsWith(`apono1 ${nonce} `))
    .map((line) => line.slice(`apono1 ${nonce} `.length))

const splitOnce = (text: string): [string, string] => {
  const at = text.indexOf(' ')
  return at === -1 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)]
}

const collectFields = (lines: readonly string[]): Fields => {
  const fields = new Map<string, string[]>()
  for (const line of lines) {
    const [kind, rest] = splitOnce(line)
    if (kind !== 'field') continue
    const [name, value] = splitOnce(rest)
    const known = fields.get(name)
    if (known) known.push(serverText(value))
    else fields.set(name, [serverText(value)])
  }
  return fields
}

const recordedPair = (fields: Fields): { generation: number; epoch: number } | undefined => {
  const pair = /^(\d{1,10}) (\d{1,10})$/.exec(fields.get('recorded')?.[0] ?? '')
  return pair ? { generation: Number(pair[1]), epoch: Number(pair[2]) } : undefined
}

const failure = (line: string, fields: Fields, facts: ErrorFacts): JobError => {
  const [code, detail] = splitOnce(line)
  const recorded = recordedPair(fields)
  return JobError.reported(code, serverText(detail), facts, recorded)
}

/**
 * What the program wants, having changed nothing: `busybox`, to be sent as it is for a server without `useradd`; or a job
 * that has to be done first.
 */
export type Wish = 'busybox' | 'install' | 'cleanup'

const WISHES: ReadonlyMap<string, Wish> = new Map([
  ['end busybox', 'busybox'],
  ['end first install', 'install'],
  ['end first cleanup', 'cleanup'],
])

export const readWish = (outcome: ExecOutcome, nonce: string): Wish | undefined =>
  WISHES.get(ownLines(outcome.stdout, nonce).at(-1) ?? '')

/**
 * Reads what a run of the program printed.
 *
 * Success is our own begin and end lines with this run's nonce, never an exit code: five ordinary server set-ups return
 * 0 having done nothing (facts measured on OpenSSH 8.4 to 10.0).
 * @throws JobError for everything else
 */
export const readReply = (outcome: ExecOutcome, nonce: string, facts: ErrorFacts): Fields => {
  const lines = ownLines(outcome.stdout, nonce)
  const begun = lines.find((line) => line.startsWith('begin uid='))
  if (begun === undefined) throw classifySilence(outcome, facts)
  const fields = collectFields(lines)
  const failed = lines.find((line) => line.startsWith('fail '))
  if (failed !== undefined) throw failure(failed.slice('fail '.length), fields, facts)
  if (lines.at(-1) === 'end ok') return fields
  // sudo's NOEXEC tag: the shell starts, and none of its children may.
  if (begun === 'begin uid=') {
    throw new JobError('sudo_broken', 'the program ran but may start no command (sudo NOEXEC)', facts)
  }
  throw new JobError('interrupted', 'the program on the server stopped before its end', facts)
}

export const one = (fields: Fields, name: string): string => fields.get(name)?.[0] ?? ''
export const all = (fields: Fields, name: string): readonly string[] => fields.get(name) ?? []

export const wholeNumber = (fields: Fields, name: string): number => {
  const text = one(fields, name)
  if (!/^\d{1,10}$/.test(text)) throw new JobError('interrupted', `the program's answer lacks ${name}`)
  return Number(text)
}
