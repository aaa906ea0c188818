import { REPORT_ERRORS } from '../protocol/report-errors.ts'
import { type ErrorFacts, errorTable, type FixedBy } from './errors.ts'

const PLACEHOLDERS: ErrorFacts = { host: 'HOST', fingerprints: ['SHA256:…'], login: 'LOGIN' }

const cell = (text: string): string => text.replaceAll('|', '\\|').replaceAll('\n', '<br>')

const row = (code: string, entry: { seen: string; retryable: boolean; fixedBy: FixedBy }, hint: string): string =>
  `| \`${code}\` | ${cell(entry.seen)} | ${entry.retryable ? 'yes' : 'no'} | ${entry.fixedBy} | ${cell(hint)} |`

/** docs/errors.md, made from the table, so that the page people search is what the code says. */
export const errorsPage = (): string => {
  const rows = [
    ...Object.entries(errorTable).map(([code, entry]) => row(code, entry, entry.hint(PLACEHOLDERS))),
    ...Object.entries(REPORT_ERRORS).map(([code, entry]) => row(code, entry, entry.hint)),
  ]
  return [
    '# Errors',
    '',
    'Made from `src/host/errors.ts` and its neighbours by `npm run docs`. Codes are stable. "Again" says whether trying again',
    'by itself can help; the end of a grant is tried for ever all the same. "Who" says whose hands it needs: the admin of the',
    'server, of the connector or of the control plane, who asked for access, or nobody.',
    '',
    '| code | what was seen | again | who | what to do |',
    '|---|---|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}

export const ERRORS_PAGE = new URL('../../docs/errors.md', import.meta.url)
