import { type ErrorCode, type ErrorFacts, errorTable, JobError } from './errors.ts'
import type { ExecOutcome } from './link.ts'

/**
 * Our program did not begin. What sudo, the shell or sshd said instead decides the code. The texts were read on
 * OpenSSH 8.4 to 10.0, sudo 1.9.5 to 1.9.16 and sudo-rs 0.2.5, all with LC_ALL=C.
 */
const SIGNS: readonly (readonly [RegExp, ErrorCode])[] = [
  [/you must have a tty to run sudo/, 'sudo_requiretty'],
  [
    /must be owned by uid 0 and have the setuid bit set|"no new privileges" flag is set|effective uid is not 0|is world writable/,
    'sudo_broken',
  ],
  [
    /a password is required|interactive authentication is required|I'm afraid I can't do that/,
    'sudo_password_required',
  ],
  [/is not in the sudoers file|is not allowed to (?:run sudo|execute)/, 'sudo_password_required'],
  [/Password change required but no TTY|password has expired/i, 'connection_password_expired'],
  [/sudo['’]?: (?:command )?not found|'sudo': No such file|sudo: No such file/, 'sudo_missing'],
]

const firstLine = (text: string): string =>
  (text.split('\n').find((line) => line.trim() !== '') ?? '').replace(/[^\x20-\x7e]/g, '?').slice(0, 200)

const matching = (outcome: ExecOutcome): ErrorCode => {
  const sign = SIGNS.find(([pattern]) => pattern.test(outcome.stderr))
  if (sign) return sign[1]
  if (outcome.exitSignal !== null) return 'interrupted'
  return outcome.exitCode === null ? 'connection_lost' : 'shell_hijacked'
}

export const classifySilence = (outcome: ExecOutcome, facts: ErrorFacts): JobError => {
  const code = matching(outcome)
  const said = firstLine(outcome.stderr) || firstLine(outcome.stdout)
  const how = outcome.exitCode === null ? 'no exit status' : `exit status ${outcome.exitCode}`
  return new JobError(code, `${errorTable[code].seen} (${how}${said === '' ? '' : `: ${said}`})`, facts)
}
