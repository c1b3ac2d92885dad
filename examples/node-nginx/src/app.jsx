import dayjs from 'dayjs';
import relativeTime from 'dayjs/plugin/relativeTime';
import { useState } from 'react';
import { parts } from './parts.js';
import { inUnits } from './units.js';

dayjs.extend(relativeTime);
const opened = dayjs();

/** The page: which files of the build reach the image, and which stay behind. */
export function App() {
  const [shippedOnly, setShippedOnly] = useState(true);
  const shown = parts.filter((part) => part.shipped || !shippedOnly);
  const bytes = shown.reduce((sum, part) => sum + part.bytes, 0);

  return (
    <main>
      <h1>What is in the image?</h1>
      <label>
        <input type="checkbox" checked={shippedOnly} onChange={(event) => setShippedOnly(event.currentTarget.checked)} />
        only what the last stage copies
      </label>
      <ul>
        {shown.map((part) => (
          <li key={part.name} className={part.shipped ? 'shipped' : 'left'}>
            <span>{part.name}</span>
            <output>{inUnits(part.bytes)}</output>
          </li>
        ))}
      </ul>
      <p>
        {inUnits(bytes)} in all. Built with node {__NODE_VERSION__}, opened {opened.fromNow()}.
      </p>
    </main>
  );
}
