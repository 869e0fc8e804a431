/** Counters on pages, one for each writer: their sum is the number of commits, in this process and in others. */
import type { Transaction } from "@tidemark/coordinator/Pager"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { SharedMemory } from "@tidemark/platform/SharedMemory"
import { Effect } from "effect"
import { page, pageSize } from "./database.ts"
import { type LogKind, nativeLog, parallelWal, sqliteWal } from "./logs.ts"
import type { World } from "./sharedWorlds.ts"

/** Pages with counters. */
export const writerPages = [2, 3, 4, 5]

const counterOf = (bytes: Uint8Array): bigint => new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0)

/** Adds one to the counter of a page. */
export const count = (tx: Transaction, number: number) =>
  Effect.flatMap(tx.read(page(number)), (bytes) => {
    const next = new Uint8Array(pageSize)
    new DataView(next.buffer).setBigUint64(0, counterOf(bytes) + 1n)
    return tx.write(page(number), next)
  })

/** The sum of all counters. */
export const sumOf = (tx: Transaction) =>
  Effect.map(
    Effect.forEach(writerPages, (number) => Effect.map(tx.read(page(number)), counterOf)),
    (counters) => counters.reduce((sum, counter) => sum + counter, 0n)
  )

export const kindOf = (name: string): LogKind => {
  const kind = [sqliteWal, parallelWal, nativeLog].find((log) => log.name === name)
  if (kind === undefined) throw new Error(`${name} is no log`)
  return kind
}

/** A database on this machine. */
export const machineOf = (database: string): World => ({
  database,
  platform: NodeVfs.layer,
  memory: SharedMemory.layerFile
})
