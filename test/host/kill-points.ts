import { readFileSync } from 'node:fs'
import type { HostLink } from '../../src/host/link.ts'
import { PROGRAM_END } from '../../src/host/program-text.ts'
import type { TestHost } from '../hosts/hosts.ts'

/**
 * `program.sh` lists every function that changes the server by itself: its kill points. Here the program is made to die by
 * SIGKILL just before a chosen one of their calls, as a power cut or an out-of-memory killer would have it.
 */
const read = (name: string) => readFileSync(new URL(`../../src/host/${name}`, import.meta.url), 'utf8')
const source = `${read('program.sh')}${read('busybox.sh')}`

export const killPoints: readonly string[] =
  /^KILL_POINTS='([^']*)'/m
    .exec(source)?.[1]
    ?.split(/\s+/)
    .filter((word) => word !== '') ?? []

/** Every function of the program with its text, comments left out. */
export const functions = (): ReadonlyMap<string, string> => {
  const found = new Map<string, string>()
  let name: string | undefined
  for (const line of source.split('\n')) {
    const head = /^([a-z_]+)\(\) (?:\{|\()/.exec(line)
    if (head?.[1] !== undefined) name = head[1]
    if (name !== undefined && !/^\s*#/.test(line)) found.set(name, `${found.get(name) ?? ''}${line}\n`)
    if (line === '}' || (head !== null && line.endsWith('}'))) name = undefined
  }
  return found
}

const FOLDER = '/run/apono-kill'

/**
 * Counts its calls; at the chosen one both the program and the subshell that it may be in are gone. The timer of the server
 * runs the same text and is left alone.
 */
const HIT = `hit() {
[ "$NONCE" != timer ] || return 0
printf x >>${FOLDER}/hits
[ "$(wc -c <${FOLDER}/hits | tr -d ' ')" != "$(cat ${FOLDER}/at)" ] || { kill -KILL $$; sh -c 'kill -KILL $PPID'; }
}`

const instrumented = (input: string, points: readonly string[]): string => {
  // There the program's own text ends; `install` carries it in a heredoc.
  const end = input.search(new RegExp(`\n(?:${PROGRAM_END}\n|apono_main [0-9a-f]{32} )`))
  const defined = points.filter((name) => new RegExp(`^${name}\\(\\) `, 'm').test(input))
  const renamed = defined.reduce(
    (text, name) => text.replace(new RegExp(`^${name}\\(\\) `, 'm'), `${name}__() `),
    input.slice(0, end),
  )
  const wrappers = defined.map((name) => `${name}() { hit; ${name}__ "$@"; }`)
  return [renamed, HIT, ...wrappers].join('\n') + input.slice(end)
}

/** The same link, with a program that can be told to die, before calls of all kill points or of some. */
export const killableLink = (host: TestHost, link: HostLink, points: readonly string[] = killPoints) => {
  const set = (at: string) => host.exec(`mkdir -p ${FOLDER}; : >${FOLDER}/hits; echo '${at}' >${FOLDER}/at`)
  return {
    link: {
      ...link,
      exec: (command, stdin, options) => link.exec(command, instrumented(stdin, points), options),
    } as HostLink,
    /** From now on it dies before the given call of a kill point, counted from 1. */
    dieAt: (call: number) => set(String(call)),
    live: () => set('never'),
    calls: async () => Number((await host.exec(`wc -c <${FOLDER}/hits`)).stdout),
  }
}
