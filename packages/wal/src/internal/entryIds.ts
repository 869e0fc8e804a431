/**
 * Ids for entries that are written here.
 *
 * They come from the sequence that all journals of the process share (`makeEntryIdUnsafe`), which follows the system's
 * clock. When the store holds a later id already, because it came from a remote or the clock was set back, they go on
 * behind that one: millisecond (48 bits) and counter (12 bits) of the id, as in a UUID of version 7.
 */
import { invariant } from "@tidemark/core/Invariant"
import type { EntryId } from "effect/eventlog/EventJournal"
import { entryIdMillis, EntryIdOrder, makeEntryIdUnsafe } from "effect/eventlog/EventJournal"

const maxMillis = 2 ** 48 - 1
const maxCounter = 0xfff

/**
 * So many ids, ascending, all of them after `latest`. Throws a `RangeError` when there are none left.
 *
 * @internal
 */
export const makeIdsAfter = (latest: EntryId | undefined, count: number): ReadonlyArray<EntryId> => {
  const ids: Array<EntryId> = []
  let previous = latest
  for (let i = 0; i < count; i++) {
    const id = makeEntryIdUnsafe()
    previous = previous === undefined || EntryIdOrder(id, previous) > 0 ? id : idBehind(previous)
    ids.push(previous)
  }
  return ids
}

/** The next counter value, or the next millisecond when the counter is at its end; the rest is random. */
const idBehind = (id: EntryId): EntryId => {
  const [high, low] = [id[6], id[7]]
  invariant(high !== undefined && low !== undefined, "an id has 16 bytes")
  const counter = ((high & 0x0f) << 8 | low) + 1
  const millis = entryIdMillis(id) + (counter > maxCounter ? 1 : 0)
  if (millis > maxMillis) throw new RangeError("there is no entry id behind the last millisecond of UUID version 7")
  const behind = makeEntryIdUnsafe({ msecs: millis })
  const kept = counter > maxCounter ? 0 : counter
  behind[6] = 0x70 | kept >> 8
  behind[7] = kept & 0xff
  return behind
}
