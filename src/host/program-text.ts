import { readFileSync } from 'node:fs'

/**
 * The host program as it is sent: `program.sh` without the lines that are only a comment or blank. Its comments are for
 * whoever reads the source; a server has no use for a third of the bytes.
 *
 * A line inside a quoted text that begins with `#` would go as well, so `program.sh` has none (a test holds it to that).
 */
export const withoutComments = (source: string): string =>
  source
    .split('\n')
    .filter((line) => !/^\s*(?:#.*)?$/.test(line))
    .join('\n')

export const PROGRAM = withoutComments(readFileSync(new URL('./program.sh', import.meta.url), 'utf8'))

/** Ends the quoted heredoc that carries the program; no line of the program may be this. */
export const PROGRAM_END = 'APONO_PROGRAM_END'
