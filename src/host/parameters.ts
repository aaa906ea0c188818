import { createHash } from 'node:crypto'
import { ACCOUNT_NAME } from '../protocol/primitives.ts'
import { JobError } from './errors.ts'
import { type AccountTools, type Operation, PROGRAM_END, programFor } from './program-text.ts'

/** Names that program.sh knows; it refuses any other. */
export type ParameterName =
  | 'op'
  | 'cp'
  | 'user'
  | 'now'
  | 'fresh_host'
  | 'host'
  | 'sshd'
  | 'grant'
  | 'generation'
  | 'epoch'
  | 'login'
  | 'person'
  | 'groups'
  | 'not_after'
  | 'content'
  | 'ca_type'
  | 'ca_key'
  | 'trust'
  | 'shell'
  | 'uid_low'
  | 'uid_high'
  | 'on_revoke'
  | 'root_processes'
  | 'existing'
  | 'timer'
  | 'program'
  | 'homes'
  | 'keep_uids'

const ID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/
const NUMBER = /^(?:0|[1-9][0-9]{0,9})$/
const HASH = /^[0-9a-f]{64}$/
const oneOf = (...words: string[]): RegExp => new RegExp(`^(?:${words.join('|')})$`)

/** The first of two allow-lists; the second is `parameters` in program.sh. Nothing is ever escaped. */
const ALLOWED: Readonly<Record<ParameterName, RegExp>> = {
  op: oneOf('present', 'absent', 'inspect', 'install', 'cleanup', 'uninstall', 'expire'),
  cp: ID,
  user: ACCOUNT_NAME,
  now: NUMBER,
  fresh_host: ID,
  host: /^(?:|[A-Za-z0-9][A-Za-z0-9_-]{0,63})$/,
  sshd: NUMBER,
  grant: ID,
  generation: NUMBER,
  epoch: NUMBER,
  login: ACCOUNT_NAME,
  person: HASH,
  groups: /^(?:|[A-Za-z_][A-Za-z0-9._-]{0,31}(?:,[A-Za-z_][A-Za-z0-9._-]{0,31}){0,99})$/,
  not_after: NUMBER,
  content: HASH,
  ca_type: oneOf('', 'ssh-ed25519'),
  ca_key: /^[A-Za-z0-9+/]{0,512}={0,2}$/,
  trust: oneOf('root_file', 'home'),
  shell: /^\/[A-Za-z0-9._/-]{1,127}$/,
  uid_low: NUMBER,
  uid_high: NUMBER,
  on_revoke: oneOf('lock', 'keep'),
  root_processes: oneOf('session', 'all'),
  existing: oneOf('refuse', 'adopt'),
  timer: oneOf('wanted', 'none'),
  program: HASH,
  homes: oneOf('archive', 'delete'),
  keep_uids: oneOf('yes', 'no'),
}

export type Parameters = Readonly<Partial<Record<ParameterName, string>>> & { readonly op: Operation }

const checkedLine = ([name, value]: [string, string]): string => {
  const allowed = ALLOWED[name as ParameterName]
  // A line break would start a parameter of its own, so it is asked for by name, whatever the pattern lets pass.
  if (!allowed?.test(value) || /[\r\n\0]/.test(value)) {
    throw new JobError('invalid_grant', `parameter ${name} is outside the allow-list`)
  }
  return `${name}=${value}\n`
}

/** The program, and in a function the text of it, which `install` writes down on the server. */
const carried = (text: string): string =>
  [`apono_text() { cat <<'${PROGRAM_END}'`, text, PROGRAM_END, '}', 'eval "$(apono_text)"'].join('\n')

/**
 * Functions and texts. A shell reads a compound command to its end before it runs any of it, so what is cut off anywhere
 * is a syntax error. (Without, the first three letters of `settle_shell` would be a command.)
 */
const definitions = (operation: Operation, tools: AccountTools): string => {
  const text = programFor(operation, tools)
  return operation === 'install' ? carried(text) : `{\n${text}\n}`
}

/**
 * What goes to the remote shell's stdin: constant text, then one call whose data stands in a quoted heredoc.
 * @param nonce hex of this run; frames the output and the heredoc, so that no data can end either
 */
export const programInput = (nonce: string, parameters: Parameters, tools: AccountTools = 'shadow'): string => {
  if (!/^[0-9a-f]{32}$/.test(nonce)) throw new JobError('internal_error', 'the nonce must be 32 hex digits')
  const lines = Object.entries(parameters).map(checkedLine).join('')
  return `${definitions(parameters.op, tools)}\napono_main ${nonce} <<'APONO_EOF_${nonce}'\n${lines}end=${nonce}\nAPONO_EOF_${nonce}\nexit\n`
}

export const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
