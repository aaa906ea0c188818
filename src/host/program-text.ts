import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/**
 * The host program as it is sent. `program.sh` is one file for whoever reads it; a server gets the sections that its job
 * needs, without indentation and the lines that are only a comment or blank. A section's head says who needs it:
 *
 *     # ------ title {all}          every job
 *     # ------ title {change}       all that changes something, and the timer on the server
 *     # ------ title {inspect}      looking
 *     # ------ title {uninstall}    leaving
 *     # ------ title {tests}        nobody: what tests read in the source
 */
const SECTION = /^# -{20,} .*\{(all|change|inspect|uninstall|tests)\}$/

type Audience = 'all' | 'change' | 'inspect' | 'uninstall' | 'tests'

interface Section {
  readonly audience: Audience
  readonly text: string
}

/** A quoted text must not depend on what goes: no line of one begins with `#` or a blank (a test sees to it). */
export const withoutComments = (source: string): string =>
  source
    .split('\n')
    .map((line) => line.replace(/^ +/, ''))
    .filter((line) => line !== '' && !line.startsWith('#'))
    .join('\n')

const sectionsOf = (source: string): readonly Section[] => {
  const sections: { audience: Audience; lines: string[] }[] = [{ audience: 'all', lines: [] }]
  for (const line of source.split('\n')) {
    const audience = SECTION.exec(line)?.[1] as Audience | undefined
    if (audience !== undefined) sections.push({ audience, lines: [] })
    sections.at(-1)?.lines.push(line)
  }
  return sections.map(({ audience, lines }) => ({ audience, text: withoutComments(lines.join('\n')) }))
}

const NEEDED: Readonly<Record<'change' | 'inspect' | 'uninstall', readonly Audience[]>> = {
  change: ['all', 'change'],
  inspect: ['all', 'inspect'],
  uninstall: ['all', 'change', 'uninstall'],
}

const SECTIONS = sectionsOf(readFileSync(new URL('./program.sh', import.meta.url), 'utf8'))

const textFor = (what: keyof typeof NEEDED): string =>
  SECTIONS.filter(({ audience, text }) => text !== '' && NEEDED[what].includes(audience))
    .map(({ text }) => text)
    .join('\n')

const CHANGE = textFor('change')
const INSPECT = textFor('inspect')
const UNINSTALL = textFor('uninstall')

/** The program for one operation (`present`, `absent`, `cleanup`, `inspect`, `uninstall`). */
export const programFor = (operation: string): string => {
  if (operation === 'inspect') return INSPECT
  return operation === 'uninstall' ? UNINSTALL : CHANGE
}

/** Says which program a server's timer has: that of `present`. */
export const PROGRAM_HASH = createHash('sha256').update(CHANGE).digest('hex')

/** Ends the quoted heredoc that carries the program; no line of the program may be this. */
export const PROGRAM_END = 'APONO_PROGRAM_END'
