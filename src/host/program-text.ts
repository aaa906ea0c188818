import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/**
 * The host program as it is sent. `program.sh` is one file for whoever reads it; a server gets the sections that its job
 * needs, without indentation, comments and blank lines. A section's head says who needs it:
 *
 *     # ------ title {all}          every job
 *     # ------ title {change}       all that changes something, and the timer on the server
 *     # ------ title {end}          ending access, and the timer
 *     # ------ title {shadow}       the same; busybox.sh goes in its place to a server without shadow-utils
 *     # ------ title {present}      making a server match a grant
 *     # ------ title {inspect}      looking
 *     # ------ title {leave}        deleting accounts, and all the rest
 *     # ------ title {tests}        nobody: what tests read in the source
 */
const SECTION = /^# -{20,} .*\{(all|change|shadow|end|present|inspect|leave|tests)\}$/

type Audience = 'all' | 'change' | 'shadow' | 'end' | 'present' | 'inspect' | 'leave' | 'tests'

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
  end: ['all', 'change', 'shadow', 'end'],
  present: ['all', 'change', 'shadow', 'present'],
  inspect: ['all', 'inspect'],
  leave: ['all', 'change', 'shadow', 'end', 'leave'],
} as const satisfies Readonly<Record<string, readonly Audience[]>>

/** What a server has for its accounts: `useradd` and its like, or nothing but BusyBox. */
export type AccountTools = 'shadow' | 'busybox'

const read = (name: string): string => readFileSync(new URL(name, import.meta.url), 'utf8')
const SECTIONS = sectionsOf(read('./program.sh'))
const BUSYBOX = withoutComments(read('./busybox.sh'))

const textFor = (what: keyof typeof NEEDED, tools: AccountTools): string =>
  SECTIONS.filter(({ audience, text }) => text !== '' && (NEEDED[what] as readonly Audience[]).includes(audience))
    .map(({ audience, text }) => (audience === 'shadow' && tools === 'busybox' ? BUSYBOX : text))
    .join('\n')

const textsFor = (tools: AccountTools) => ({
  end: textFor('end', tools),
  present: textFor('present', tools),
  inspect: textFor('inspect', tools),
  leave: textFor('leave', tools),
})

const TEXTS = { shadow: textsFor('shadow'), busybox: textsFor('busybox') } as const

/** What a job asks of the program. */
export type Operation = 'present' | 'absent' | 'inspect' | 'install' | 'cleanup' | 'uninstall' | 'expire'

const TEXT_OF: Readonly<Record<Operation, keyof typeof NEEDED>> = {
  present: 'present',
  absent: 'end',
  inspect: 'inspect',
  install: 'end',
  cleanup: 'leave',
  uninstall: 'leave',
  expire: 'end',
}

export const programFor = (operation: Operation, tools: AccountTools = 'shadow'): string =>
  TEXTS[tools][TEXT_OF[operation]]

const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const HASHES = { shadow: hash(TEXTS.shadow.end), busybox: hash(TEXTS.busybox.end) } as const

/** Says which program a server's timer has: what ends access. */
export const programHash = (tools: AccountTools): string => HASHES[tools]

/** Ends the quoted heredoc that carries the program; no line of the program may be this. */
export const PROGRAM_END = 'APONO_PROGRAM_END'
