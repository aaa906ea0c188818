import { type ErrorCode, type ErrorFacts, errorTable, JobError } from './errors.ts'
import type { ExecOutcome } from './link.ts'

/**
 * Our program did not begin. What sudo, doas, the shell or sshd said instead decides the code. The texts were read on
 * OpenSSH 8.4 to 10.0, sudo 1.9.5 to 1.9.16, sudo-rs 0.2.5 and opendoas 6.8.2, all with LC_ALL=C. What comes before
 * sudo (the login shell, `env`) speaks the language of the server: there, only names and exit codes are looked at.
 */
interface Sign {
  readonly stream: 'stdout' | 'stderr'
  readonly words: RegExp
  readonly code: ErrorCode
  /** Where the words alone could be anybody's. */
  readonly exitCode?: number
}

const said = (code: ErrorCode, words: RegExp, exitCode?: number): Sign => ({
  stream: 'stderr',
  words,
  code,
  ...(exitCode === undefined ? {} : { exitCode }),
})

const printed = (code: ErrorCode, words: RegExp): Sign => ({ stream: 'stdout', words, code })

/** The first that fits counts: what ended the run comes before what was only complained about. */
const SIGNS: readonly Sign[] = [
  said('sudo_missing', /^env: .*\b(?:sudo|doas)\b|\b(?:sudo|doas): (?:command )?not found/m, 127),
  said('sudo_broken', /^env: .*\bsudo\b/m, 126),
  said('doas_broken', /^env: .*\bdoas\b/m, 126),
  // Of bash, dash, BusyBox, mksh and sudo, in this order.
  said('host_busy', /\bfork: (?:retry: )?Resource|[Cc]annot fork|can't fork|unable to fork/),
  said('sudo_requiretty', /you must have a tty to run sudo/),
  said('sudo_broken', /must be owned by uid 0 and have the setuid bit set|"no new privileges" flag is set/),
  said('sudo_broken', /effective uid is not 0|is world writable|no valid sudoers sources found/),
  // sudo's tag NOEXEC: the shell runs, and nothing that it starts does.
  said('sudo_broken', /\bcat: Permission denied/),
  said('doas_broken', /^doas: (?:not installed setuid|syntax error|.* is writable by|.* is not owned by)/m),
  said('doas_denied', /^doas: (?:Operation not permitted|Authentication required|doas is not enabled)/m),
  said('connection_password_expired', /Password change required but no TTY|password (?:has|is) expired/i),
  // Said before the question for a password, which is then the lesser trouble.
  said('sudo_denied', /^sudo: (?:PAM account management error|account validation failure)/m),
  said('sudo_password_required', /a password is required|interactive authentication is required/),
  said('sudo_denied', /is not in the sudoers file|is not allowed to (?:run sudo|execute)|I'm afraid I can't do that/),
  // bash before 5.1 and the Korn shells keep a here-document in a file.
  said('shell_needs_tmp', /can(?:no|')t create temp/),
  printed('no_shell', /^This account is currently not available/m),
  printed('sftp_only', /^This service allows sftp connections only/m),
]

const firstLine = (text: string): string =>
  (text.split('\n').find((line) => line.trim() !== '') ?? '').replace(/[^\x20-\x7e]/g, '?').slice(0, 200)

const fits = (sign: Sign, outcome: ExecOutcome): boolean =>
  (sign.exitCode === undefined || sign.exitCode === outcome.exitCode) && sign.words.test(outcome[sign.stream])

const isMute = ({ stdout, stderr }: ExecOutcome): boolean => stdout.trim() === '' && stderr.trim() === ''

const matching = (outcome: ExecOutcome): ErrorCode => {
  const sign = SIGNS.find((one) => fits(one, outcome))
  if (sign) return sign.code
  if (outcome.exitSignal !== null) return 'interrupted'
  if (outcome.exitCode === null) return 'connection_lost'
  // The login shell /bin/false.
  return outcome.exitCode === 1 && isMute(outcome) ? 'no_shell' : 'shell_hijacked'
}

export const classifySilence = (outcome: ExecOutcome, facts: ErrorFacts): JobError => {
  const code = matching(outcome)
  const words = firstLine(outcome.stderr) || firstLine(outcome.stdout)
  const how = outcome.exitCode === null ? 'no exit status' : `exit status ${outcome.exitCode}`
  return new JobError(code, `${errorTable[code].seen} (${how}${words === '' ? '' : `: ${words}`})`, facts)
}
