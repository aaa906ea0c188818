import { z } from 'zod'
import { parseInput } from '../access/input.ts'
import type { Page, PageQuery } from '../store/store.ts'

const MAX_LIMIT = 1000
const DEFAULT_LIMIT = 100

const Query = z.looseObject({
  limit: z.coerce.number('must be a number').int().min(1).max(MAX_LIMIT).default(DEFAULT_LIMIT),
  page_token: z
    .string()
    .regex(/^[1-9][0-9]{0,14}$/, 'is not one of ours')
    .optional(),
})

/** `limit` and `page_token`, as the vendor's lists have them. */
export const pageQuery = (query: unknown): PageQuery => {
  const { limit, page_token: token } = parseInput(Query, query)
  return { limit, after: token === undefined ? null : Number(token) }
}

export const pageModel = <T>(items: readonly T[], page: Pick<Page<unknown>, 'next'>) => ({
  items,
  pagination: { next_page_token: page.next === null ? null : String(page.next) },
})

const Values = z.union([z.string(), z.array(z.string())]).optional()

/** A query parameter that may be given once, several times, or as a comma-separated list. */
export const queryList = (query: unknown, name: string): readonly string[] | null => {
  const parsed = parseInput(z.looseObject({ [name]: Values }), query)
  const value = parsed[name]
  if (value === undefined) return null
  const list = Array.isArray(value) ? value : String(value).split(',')
  return list.length === 0 ? null : list
}
