import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/**
 * The host program as it is sent. `program.sh` is one file for whoever reads it; a server gets the sections that its job
 * needs, without indentation, comments and blank lines. A section's head says who needs it:
 *
 *     # ------ title {all}          every job
 *     # ------ title {change}       all that changes something, and the timer on the server
 *     # ------ title {present}      making a server match a grant
 *     # ------ title {inspect}      looking
 *     # ------ title {uninstall}    leaving
 *     # ------ title {tests}        nobody: what tests read in the source
 */
const SECTION = /^# -{20,} .*\{(all|change|present|inspect|uninstall|tests)\}$/

type Audience = 'all' | 'change' | 'present' | 'inspect' | 'uninstall' | 'tests'

interface Section {
  readonly audience: Audience
  readonly text: string
}

/**
 * A comment behind code stands two blanks away from it. A quoted text must not depend on what goes: no line of one begins
 * with `#` or a blank, or has such a comment (a test sees to it).
 */
export const withoutComments = (source: string): string =>
  source
    .split('\n')
    .map((line) => line.replace(/^ +/, '').replace(/ {2,}# [^'"]*$/, ''))
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

const NEEDED = {
  change: ['all', 'change'],
  present: ['all', 'change', 'present'],
  inspect: ['all', 'inspect'],
  uninstall: ['all', 'change', 'uninstall'],
} as const satisfies Readonly<Record<string, readonly Audience[]>>

const SECTIONS = sectionsOf(readFileSync(new URL('./program.sh', import.meta.url), 'utf8'))

const textFor = (what: keyof typeof NEEDED): string =>
  SECTIONS.filter(({ audience, text }) => text !== '' && (NEEDED[what] as readonly Audience[]).includes(audience))
    .map(({ text }) => text)
    .join('\n')

const TEXTS = {
  present: textFor('present'),
  inspect: textFor('inspect'),
  uninstall: textFor('uninstall'),
  change: textFor('change'),
}

/** The program for one operation (`present`, `absent`, `cleanup`, `inspect`, `uninstall`). */
export const programFor = (operation: string): string =>
  operation === 'present' || operation === 'inspect' || operation === 'uninstall' ? TEXTS[operation] : TEXTS.change

/** Says which program a server's timer has: that of `present`. */
export const PROGRAM_HASH = createHash('sha256').update(TEXTS.present).digest('hex')

/** Ends the quoted heredoc that carries the program; no line of the program may be this. */
export const PROGRAM_END = 'APONO_PROGRAM_END'
