/** `npm run docs`: writes the pages that tests hold against the code. */
import { writeFileSync } from 'node:fs'
import { ERRORS_PAGE, errorsPage } from '../src/host/errors-page.ts'
import { connectorProtocolText, DOCUMENT_PATH } from '../src/protocol/openapi.ts'

writeFileSync(DOCUMENT_PATH, connectorProtocolText())
writeFileSync(ERRORS_PAGE, errorsPage())
